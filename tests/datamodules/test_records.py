import json
import pickle

import pytest

from datamodules.records import READERS, JsonLines, PackedRecords, ParquetRecords, read_json
from emu2_lit.errors import UserError
from emu2_lit.samples.sample import BadSample


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_json_list_is_read_by_index(tmp_path):
    rows = [{"id": 1, "text": "ä"}, {"id": 2}, ["odd"]]
    records = read_json(write(tmp_path / "a.json", json.dumps(rows)))
    assert [records[i] for i in range(len(records))] == rows


def test_json_lines_skip_blank_lines_and_name_the_broken_one(tmp_path):
    records = JsonLines(write(tmp_path / "a.jsonl", '{"id": 1}\n\n{"id": 2,}\r\n{"id": "é"}'))
    assert len(records) == 3
    assert (records[0], records[2]) == ({"id": 1}, {"id": "é"})
    with pytest.raises(BadSample, match="line 3 is not valid JSON"):
        records[1]


def test_json_lines_travel_to_spawned_workers(tmp_path):
    records = JsonLines(write(tmp_path / "a.jsonl", '{"id": 1}\n{"id": 2}\n'))
    assert pickle.loads(pickle.dumps(records))[1] == {"id": 2}


def test_a_file_that_shrinks_is_a_bad_sample(tmp_path):
    records = JsonLines(write(tmp_path / "a.jsonl", '{"id": 1}\n{"id": 2}\n'))
    write(tmp_path / "a.jsonl", '{"id": 1}\n{"i')
    with pytest.raises(BadSample, match="has changed"):
        records[1]


def test_json_that_does_not_parse_names_line_and_column(tmp_path):
    with pytest.raises(UserError, match=r"a\.json is not valid JSON: .* line 2, column 10"):
        read_json(write(tmp_path / "a.json", '[\n{"id": 1,,}]'))


def test_json_lines_in_a_json_file_are_read(tmp_path):
    records = read_json(write(tmp_path / "a.json", '{"id": 1}\n{"id": 2}\n'))
    assert [records[0], records[1]] == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ('"text"', "holds a str, not a list")])
def test_other_json_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_json(write(tmp_path / "a.json", content))


def test_text_in_another_encoding_is_a_user_error(tmp_path):
    (tmp_path / "a.json").write_bytes('[{"a": "é"}]'.encode("utf-16"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_json(tmp_path / "a.json")


def test_parquet_rows_leave_out_nulls(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra `parquet`")
    from pyarrow import parquet

    rows = [{"image": {"bytes": b"x", "path": "x.png"}, "text": "a"}, {"image": None, "text": "b"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    records = READERS[".parquet"](tmp_path / "a.parquet")
    assert isinstance(records, ParquetRecords) and len(records) == 2
    assert records[0]["image"] == {"bytes": b"x", "path": "x.png"}
    assert records[1] == {"text": "b"}
    with pytest.raises(UserError, match="not a readable Parquet"):
        ParquetRecords(write(tmp_path / "b.parquet", "no parquet"))


def test_packed_records_of_nothing_are_empty():
    assert len(PackedRecords.pack([])) == 0
