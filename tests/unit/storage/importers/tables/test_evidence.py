"""Is enough remembered of a long table, and not all of it?"""

import random

from storage.importers.inference import infer_space
from storage.importers.tables import evidence as table_evidence
from storage.importers.tables.evidence import Evidence
from storage.importers.tables.values import content


def evidence_of(rows):
    evidence = Evidence(len(rows[0]))
    for row in rows:
        evidence.add(row)
    return evidence


def space_of(rows):
    names = [f"x{place}" for place in range(len(rows[0]))]
    columns = {name: [content(row[place]) for row in rows] for place, name in enumerate(names)}
    return infer_space(columns)[0]


def test_what_is_kept_of_many_rows_tells_the_same_space(monkeypatch):
    monkeypatch.setattr(table_evidence, "FIRST_ROWS", 100)
    rng = random.Random(0)
    rows = []
    for number in range(5_000):
        kind = "sgd" if rng.random() < 0.5 or number < 1_000 else "adam"  # adam comes late
        momentum = f"{rng.random():.6f}" if kind == "sgd" else ""
        rows.append([f"{10 ** rng.uniform(-5, 0):.6g}", kind, momentum, str(rng.randint(1, 9))])
    evidence = evidence_of(rows)
    assert evidence.count == 5_000 and len(evidence.rows) < 200
    assert space_of(evidence.rows) == space_of(rows)


def test_numbers_that_only_grow_do_not_make_every_row_news(monkeypatch):
    monkeypatch.setattr(table_evidence, "FIRST_ROWS", 10)
    evidence = evidence_of([[str(number), "0.5"] for number in range(5_000)])
    assert len(evidence.rows) < 20
    assert evidence.rows[-1] == ["4999", "0.5"]


def test_names_of_runs_do_not_make_every_row_news(monkeypatch):
    monkeypatch.setattr(table_evidence, "FIRST_ROWS", 10)
    evidence = evidence_of([[f"run-{number}", "0.5"] for number in range(5_000)])
    assert len(evidence.rows) < 250


def test_columns_of_numbers_are_told_from_columns_of_words():
    evidence = evidence_of([["1", "a", "", "nan"], ["x", "b", "2", ""], ["3", "4", "", "n/a"]])
    assert [evidence.is_numeric(place) for place in range(4)] == [True, False, True, False]
    assert [evidence.present(place) for place in range(4)] == [3, 3, 1, 0]


def test_durations_are_numbers_or_hours_minutes_and_seconds():
    evidence = evidence_of([["3.5", "0 days 00:00:01", "soon", ""], ["4", "1:02:03", "later", ""]])
    assert [evidence.is_duration(place) for place in range(4)] == [True, True, False, False]


def test_a_few_words_among_many_numbers_are_slips_and_more_are_choices():
    numbers = [[str(number / 7)] for number in range(60)]
    assert evidence_of([*numbers, ["abc"]]).holds_slips(0)
    assert not evidence_of(numbers).holds_slips(0)
    assert not evidence_of([*numbers[:20], *[["auto"]] * 10]).holds_slips(0)
    assert not evidence_of([*numbers, ["None"]]).holds_slips(0)
