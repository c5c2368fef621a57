import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import records
from data.records import DataError, read_records, replacing, write_array, write_lines

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
lists_of_records = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=5)


def read(path) -> list[dict]:
    return [record for _, record in read_records(path)]


@settings(deadline=None)
@given(
    wanted=lists_of_records,
    indent=st.sampled_from([None, 0, 2, 30]),
    chunk=st.integers(1, 40),
    ascii_only=st.booleans(),
)
def test_an_array_reads_the_same_whatever_the_layout_and_the_chunk(tmp_path_factory, wanted, indent, chunk, ascii_only):
    path = tmp_path_factory.mktemp("array") / "records.json"
    path.write_text(json.dumps(wanted, indent=indent, ensure_ascii=ascii_only) + "\n", encoding="utf-8")
    original = records.CHUNK
    records.CHUNK = chunk
    try:
        assert read(path) == wanted
    finally:
        records.CHUNK = original


@settings(deadline=None)
@given(wanted=lists_of_records)
def test_what_is_written_is_read_back(tmp_path_factory, wanted):
    folder = tmp_path_factory.mktemp("written")
    assert write_array(folder / "array.json", wanted) == write_lines(folder / "lines.json", wanted) == len(wanted)
    assert read(folder / "array.json") == read(folder / "lines.json") == wanted
    assert json.loads((folder / "array.json").read_text()) == wanted


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": 1}\n{"a": }\n', ":2: not JSON"),
        ('{"a": 1}\n[1]\n', ":2: expected a JSON object, got list"),
        ('[\n  {"a": 1},\n  {"a": \n  nope}\n]', ":4: not JSON"),
        ('[\n  {"a": 1}\n  {"a": 2}\n]', ":3: not JSON: expected ',', got '{'."),
        ('[\n  {"a": 1},\n  {"a": "cut', ":3: not JSON"),
        ('[\n  {"a": 1},\n', ":3: not JSON"),
        ('[{"a": 1}', ":1: not JSON: expected ',', got the end of the file."),
        ('[{"a": 1}]\n[{"b": 1}]', ":2: not JSON: expected the end of the file, got '['."),
        ('[\n{"a": 1},\n]', ":3: not JSON"),
        ('[{"a": 1}, 7]', ":1: expected a JSON object, got int"),
        ('[\n{"a": "line\nbreak"}]', ":2: not JSON"),
        ('[\n{"a": "\\ud83d"}]', r":2: \ud83d is half a character"),
        ('{"a": "\\ud83d\\ude00 \\\\ud83d"}\n{"\\uDE00 ": [1]}', r":2: \ude00 is half a character"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_malformed_file_is_named_with_its_line(tmp_path, monkeypatch, text, where, chunk):
    monkeypatch.setattr(records, "CHUNK", chunk)
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}{where}")


def test_a_malformed_record_is_found_without_reading_on(tmp_path, monkeypatch):
    """Else the whole of a huge file would be in memory before its first line is called bad."""
    monkeypatch.setattr(records, "CHUNK", 100)
    path = tmp_path / "bad.json"
    path.write_text('[{"a": oops},\n' + '{"b": 1},\n' * 10_000 + '{"c": 1}]')
    with path.open() as file, pytest.raises(DataError, match=":1: "):
        scanner = records._Scanner(file, path)
        scanner.take("[")
        scanner.next_value()
    assert len(scanner.text) < 1000


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.json does not exist"):
        read(tmp_path / "nothing.json")


def test_a_file_that_is_not_text_is_one_sentence(tmp_path):
    (tmp_path / "x.json").write_bytes(b"PAR1\xff\xfe")
    with pytest.raises(DataError, match=r"x\.json: not UTF-8 text"):
        read(tmp_path / "x.json")


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    kept, new = tmp_path / "kept.json", tmp_path / "sub" / "new.json"
    kept.write_text("old")
    with pytest.raises(RuntimeError), replacing(kept, new) as partial:
        write_lines(partial[0], [{"a": 1}])
        raise RuntimeError
    assert kept.read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept.json", "sub"]
