"""CSV in and out: every delimiter and encoding of spreadsheets, and no cell that they would run."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.core.tables import TableError, cell, csv_of, csv_text, plain_cell, read_table
from psp_ray.core.words import normalize_name, printable, same_text, short

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@given(
    st.one_of(TEXTS, st.builds(lambda a, b: a + b, st.sampled_from(["'", "''", "=", "+", "-", "@", "\t", "'="]), TEXTS))
)
def test_an_escaped_cell_comes_back_and_is_no_formula(text):
    safe = cell(text)
    assert plain_cell(safe) == text
    try:
        float(text)
    except ValueError:
        assert not safe.startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_what_is_written_is_read_back(rows, delimiter):
    text = csv_text([["Sample_ID ", "label"], *rows], delimiter)
    found = read_table(text.encode())
    assert found.header == ["sample_id", "label"]
    assert found.delimiter == delimiter
    kept = [row for row in rows if any(value.strip() for value in row)]
    assert [record for _, record in found.records] == kept
    by_csv = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    assert by_csv[1:] == [[cell(value) for value in row] for row in rows]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfsample_id,label\na,b\n",
        "sample_id\tlabel\na\tb\n".encode("utf-16"),
        b"sep=;\r\nsample_id;label\r\na;b\r\n",
        b'"sample_id","label"\r\n"a","b"\r\n',
        b'\n"sample_id";label\na;b\n',
        b'"Sample_ID"|" label "\na|b\n',
    ],
)
def test_as_spreadsheets_write_it(data):
    found = read_table(data)
    assert found.header == ["sample_id", "label"]
    assert [record for _, record in found.records] == [["a", "b"]]


def test_lines_are_counted_where_records_begin():
    found = read_table('sample_id,label\n\n"a\nb",cat\nc,dog\n')
    assert found.records == [(3, ["a\nb", "cat"]), (5, ["c", "dog"])]
    assert list(read_table("a,b\n1\n1,2,3\n").rows()) == [(2, {"a": "1", "b": ""}), (3, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b'a,b\n1,2\n"3,4\n5,6\n', 3, "quote"),
        (b'a,b\n"1"x,2\n', 2, "CSV"),
        (b"a,b\n\xff\xfe\xfa", 0, "UTF-8"),
        (b"a,b\n" + b"x" * 200_000 + b",2\n", 2, "CSV"),
    ],
)
def test_what_is_no_table_is_named(data, line, reason):
    with pytest.raises(TableError, match=reason) as caught:
        read_table(data)
    assert caught.value.line == line


def test_numbers_stay_numbers_and_bytes_of_names_are_shown():
    assert (
        csv_of([{"a": -1.5, "b": "-2", "c": "-2+3", "d": None, "e": "x\udcff"}])
        == "a,b,c,d,e\n-1.5,-2,'-2+3,,x\\udcff\n"
    )


@given(st.text())
def test_nothing_that_moves_a_cursor_is_printable(text):
    shown = printable(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    shown.encode()
    assert len(short(text)) <= 80
    assert "\n" not in short(text)


def test_printable_keeps_what_people_write_and_both_ends_of_a_long_text():
    assert printable("Käse – 犬 🐕‍🦺\nb\tc") == "Käse – 犬 🐕‍🦺\nb\tc"
    assert printable("\x1b]0;x\x07\u202egpj.exe\r") == "\\x1b]0;x\\x07\\u202egpj.exe\\x0d"
    long = printable("begin" + "x" * 9000 + "end")
    assert len(long) <= 1500
    assert long.startswith("begin")
    assert long.endswith("end")


def test_two_spellings_of_one_name():
    assert normalize_name("Cafe\u0301_Bar") == normalize_name("CAF\u00c9 bar") == "caf\u00e9 bar"
    assert same_text(" u\u0308.jpg") == "\u00fc.jpg"
