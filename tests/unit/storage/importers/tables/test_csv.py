"""Is a CSV file read as it was meant, whatever separates its fields, or else refused with a reason?"""

import pytest

from storage.errors import ImportFailedError
from storage.importers.tables.csv import open_csv


@pytest.fixture
def write(tmp_path):
    def written(content, name="runs.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def rows(path):
    file = open_csv(path)
    return [(line, list(file.cells(fields))) for line, fields in file.rows()]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_told(write, delimiter):
    path = write(f"lr{delimiter}note{delimiter}loss\n0.1{delimiter}a b{delimiter}1\n")
    assert open_csv(path).header == ("lr", "note", "loss")
    assert rows(path) == [(2, ["0.1", "a b", "1"])]


def test_delimiters_within_fields_do_not_mislead(write):
    path = write('name;lr;loss\n"a, b, c, d";1;2\n"e, f, g, h";3;4\n')
    assert [fields for _, fields in rows(path)] == [["a, b, c, d", "1", "2"], ["e, f, g, h", "3", "4"]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_a_name(write, encoding):
    path = write("größe,loss\n1,2\n".encode(encoding))
    assert open_csv(path).header == ("größe", "loss")
    assert rows(path) == [(2, ["1", "2"])]


def test_rows_know_their_line(write):
    path = write('lr,note,loss\r\n1,"two\r\nlines",3\r\n\r\n4,x,6\r\n')
    assert rows(path) == [(2, ["1", "two\r\nlines", "3"]), (5, ["4", "x", "6"])]


def test_empty_lines_before_the_header_are_passed_over(write):
    assert rows(write("\n\nlr,loss\n1,2\n")) == [(4, ["1", "2"])]


def test_a_row_of_another_length_is_refused_alone(write):
    file = open_csv(write("a,b,c\n1,2,3\n1,2\n1,2,3,4\n1,2,3,,\n"))
    (_, good), (_, short), (_, long), (_, padded) = file.rows()
    assert list(file.cells(good)) == list(file.cells(padded)) == ["1", "2", "3"]
    with pytest.raises(ValueError, match=r"another number of fields: 2, and the header has 3 \(is the file cut off"):
        file.cells(short)
    with pytest.raises(ValueError, match=r"another number of fields: 4, and the header has 3$"):
        file.cells(long)


def test_decimal_commas_are_told_apart_from_whole_numbers_and_words(write):
    path = write("lr;depth;kind;loss\n0,1;3;a;1,5e-3\n;4;b,c;2\n")
    assert open_csv(path).decimal_commas == {0, 3}
    assert [fields for _, fields in rows(path)] == [["0.1", "3", "a", "1.5e-3"], ["", "4", "b,c", "2"]]


def test_a_number_that_may_have_thousands_is_not_read_as_decimals(write):
    file = open_csv(write("lr;loss\n" + "0,5;1\n" * 1_000 + "1.234;1\n"))
    *_, (line, last) = file.rows()
    assert line == 1_002
    with pytest.raises(ValueError, match=r"no number with a decimal comma, as in the other rows: lr = '1\.234'"):
        file.cells(last)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"just text\nand more\n", "only one column"),
        (b"a,b\nna\xefve,1\n", "is not in UTF-8"),
        (b"a,b\n1,\0\n", "is no text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not in UTF-8|is no text"),
        (b"lr,lr,loss\n1,2,3\n", "several columns named 'lr'"),
        (b"0.1,0.2,0.3\n0.4,0.5,0.6\n", "the first line must name the columns"),
    ],
)
def test_what_is_no_table_is_refused(write, content, reason):
    with pytest.raises(ImportFailedError, match=reason):
        open_csv(write(content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('a,b\n1,2\n3,"4', r"line 3: the file ends within a quoted field \(is it cut off\?\)"),
        ('a,b\n1,2\n3,"4"5\n', "line 3: ',' expected after '\"'"),
        (b"a,b\n1,2\n" * 40_000 + b"\xff,1\n", "is not in UTF-8"),
        ("a,b\n1," + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
    ],
)
def test_a_file_that_breaks_later_on_is_refused_while_it_is_read(write, content, reason):
    file = open_csv(write(content))
    with pytest.raises(ImportFailedError, match=reason):
        list(file.rows())


def test_a_last_line_without_an_end_is_noticed(write):
    assert open_csv(write("a,b\n1,2\n")).has_last_line_end
    assert open_csv(write("a,b\n1,2\n".encode("utf-16"), "two.csv")).has_last_line_end
    assert not open_csv(write("a,b\n1,2", "open.csv")).has_last_line_end


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ImportFailedError, match=r"nothing\.csv cannot be read: No such file"):
        open_csv(tmp_path / "nothing.csv")
