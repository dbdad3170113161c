"""Do reports list rows as people look for them?"""

from storage.importers.report import RowReport, in_order


def names(*rows):
    return [row.row for row in in_order(RowReport(row=row, verdict="taken") for row in rows)]


def test_rows_come_in_the_order_of_their_file():
    assert names("a.csv line 10", "a.csv line 9", "b.csv line 2", "a.csv line 2") == [
        "a.csv line 2",
        "a.csv line 9",
        "a.csv line 10",
        "b.csv line 2",
    ]


def test_what_has_no_number_stays_where_it_is():
    assert names("beef", "0a1b", "my study", "cafe") == ["beef", "0a1b", "my study", "cafe"]


def test_a_report_says_only_what_is_known():
    assert RowReport(row="x", verdict="taken", task="t", study="s", trial=0).to_json() == {
        "row": "x",
        "verdict": "taken",
        "task": "t",
        "study": "s",
        "trial": 0,
    }
    assert RowReport(row="x", verdict="rejected", reason="bad").to_json() == {
        "row": "x",
        "verdict": "rejected",
        "reason": "bad",
    }
