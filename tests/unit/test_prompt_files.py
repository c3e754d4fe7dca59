"""A user's prompts files: how they are read, split and drawn from, and every fault a record can have."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from subcircuit.errors import DataError, UsageError
from subcircuit.tasks._base import SPLITS, Row
from subcircuit.tasks._file import FileTask
from subcircuit.tasks._report import Finding
from subcircuit.tasks._resolve import task
from tiny_tokenizers import byte_level

GOOD: dict[str, Any] = {"clean": "Mary saw", "corrupt": "John saw", "answers": [" coffee"], "wrong_answers": [" gold"]}


def jsonl(folder: Path, *records: Any) -> str:
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path = folder / "prompts.jsonl"
    path.write_bytes(b"\n".join(lines))
    return str(path)


def numbered(n: int, **more: Any) -> list[dict[str, Any]]:
    return [GOOD | {"clean": f"In {i} Mary saw", "corrupt": f"In {i} John saw"} | more for i in range(1000, 1000 + n)]


def test_jsonl_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    several = {"answers": [" coffee", " them"], "split": "test", "position": -1}
    records = [GOOD | {"split": "train"}, GOOD | several | {"clean": 'Mary, "M", saw', "corrupt": 'John, "J", saw'}]
    with (tmp_path / "prompts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["clean", "corrupt", "answers", "wrong_answers", "split", "position"])
        writer.writeheader()
        for record in records:
            writer.writerow(record | {name: "|".join(record[name]) for name in ("answers", "wrong_answers")})
    from_csv, from_jsonl = FileTask(str(tmp_path / "prompts.csv")).rows(), FileTask(jsonl(tmp_path, *records)).rows()
    assert [str(row).replace("csv", "jsonl") for row in from_csv] == [str(row) for row in from_jsonl]
    assert from_jsonl[1] == Row(
        'Mary, "M", saw', 'John, "J", saw', (" coffee", " them"), (" gold",), "test", -1, "row 2 of prompts.jsonl"
    )


def test_a_file_is_a_task_like_any_other(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *numbered(100))
    source = task(path)
    assert source == FileTask(path) and source.name == path
    pairs = {split: source.pairs(byte_level(), 1000, split=split) for split in SPLITS}
    assert sum(map(len, pairs.values())) == 100
    assert 45 <= len(pairs["train"]) <= 75 and len(pairs["validation"]) >= 10 and len(pairs["test"]) >= 10
    some = [source.pairs(byte_level(), 10, seed=seed).clean.ids.tolist() for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]


def test_a_row_stays_in_its_split_when_others_go(tmp_path: Path) -> None:
    def shares(records: list[dict[str, Any]]) -> dict[str, str]:
        return {row.clean: row.split for row in FileTask(jsonl(tmp_path, *records)).rows() if isinstance(row, Row)}

    assert shares(numbered(50)[::2]).items() < shares(numbered(50)).items()


def test_fewer_rows_than_asked_for_are_all_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = FileTask(jsonl(tmp_path, *numbered(5, split="test")))
    with caplog.at_level(logging.INFO, "subcircuit"):
        assert len(source.pairs(byte_level(), 64, split="test")) == 5
    assert "has 5 test rows; 64 were asked for" in caplog.text
    with pytest.raises(
        DataError, match=r"no usable rows in its train split \(there are: train 0, validation 0, test 5\)"
    ):
        source.pairs(byte_level(), 64)


@pytest.mark.parametrize(
    ("record", "code", "said"),
    [
        (b'{"clean": "Mary saw", ', "json", "malformed JSON at character"),
        (b"[1, 2]", "json", "a JSON list, not an object"),
        (b'{"clean": "Mary \xff"}', "encoding", "not UTF-8 at byte 17"),
        (
            b'{"clean": "\\ud800", "corrupt": "a", "answers": "b", "wrong_answers": "c"}',
            "encoding",
            "clean is not UTF-8",
        ),
        ({"clean": "Mary saw", "corrupt": "John saw"}, "columns", "no answers, wrong_answers"),
        (GOOD | {"postion": 3}, "columns", "unknown column 'postion'"),
        (GOOD | {"clean": 7}, "types", "clean is 7, not a text"),
        (GOOD | {"clean": None}, "columns", "no clean"),
        (GOOD | {"answers": [1]}, "types", "answers is [1], not a list of texts"),
        (GOOD | {"position": 1.5}, "types", "position is 1.5"),
        (GOOD | {"position": True}, "types", "position is true"),
        (b'{"clean": "Mary saw", "position": ' + b"9" * 5000 + b"}", "json", "a number of too many digits"),
        (GOOD | {"split": "tset"}, "split", "there is no split 'tset'"),
        (GOOD | {"split": ["test"]}, "split", "there is no split ['test']"),
    ],
)
def test_what_is_no_row_is_a_finding(tmp_path: Path, record: Any, code: str, said: str) -> None:
    found = FileTask(jsonl(tmp_path, GOOD, b"", record)).rows()
    assert isinstance(found[0], Row) and isinstance(found[1], Finding) and len(found) == 2
    assert found[1].code == code and said in found[1].cause
    assert found[1].row == "row 3 of prompts.jsonl" and found[1].cure


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"clean,corrupt,answers\nMary saw,John saw, her\n", "columns"),
        (b"clean,corrupt,answers,wrong_answers\nMary, she saw,John saw, her, him\n", "columns"),
        (b"clean,corrupt,answers,wrong_answers\nMary saw\n", "columns"),
        (b"clean,corrupt,answers,wrong_answers\nMary \xff saw,John saw, her, him\n", "encoding"),
        (b"clean,corrupt,answers,wrong_answers,split\nMary saw,John saw, her, him,tets\n", "split"),
        (b'clean,corrupt,answers,wrong_answers\n"' + b"a" * 200_000 + b'",b, c, d\n', "csv"),
    ],
)
def test_what_is_no_row_of_csv_is_a_finding(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "prompts.csv").write_bytes(content)
    (found,) = FileTask(str(tmp_path / "prompts.csv")).rows()
    assert isinstance(found, Finding) and (found.code, found.row) == (code, "row 1 of prompts.csv")


@pytest.mark.parametrize("position", ["--5", "-", "5-", "9" * 5000])
def test_what_is_no_index_in_csv_is_looked_for_in_the_prompt(tmp_path: Path, position: str) -> None:
    content = f"clean,corrupt,answers,wrong_answers,position\nMary saw,John saw, her, him,{position}\n"
    (tmp_path / "prompts.csv").write_text(content)
    task = FileTask(str(tmp_path / "prompts.csv"))
    (row,) = task.rows()
    assert isinstance(row, Row) and row.position == position
    assert [finding.code for finding in task.examine(byte_level()).findings] == ["position"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(
        b"\xef\xbb\xbfclean,corrupt,answers,wrong_answers\r\nMary saw,John saw, her, him\r\n"
    )
    assert isinstance(FileTask(str(tmp_path / "p.csv")).rows()[0], Row)


def test_bad_rows_stop_or_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(tmp_path, *numbered(6, split="train"), b"{", GOOD | {"clean": "", "split": "train"})
    with pytest.raises(
        DataError, match=r"2 of 8 rows of .* cannot be used \(kept 6\)\nrow 7 of prompts.jsonl: malformed"
    ):
        FileTask(path).pairs(byte_level(), 8)
    with caplog.at_level(logging.WARNING, "subcircuit"):
        assert len(task(path, drop_bad=True).pairs(byte_level(), 8)) == 6
    assert "read 8 rows, kept 6, dropped 2" in caplog.text
    report = FileTask(path).examine(byte_level())
    assert (report.read, report.kept, report.dropped) == (8, 6, 2)


def test_files_that_cannot_be_prompts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        task(tmp_path / "none.jsonl")
    (tmp_path / "prompts.txt").write_text("")
    with pytest.raises(UsageError, match=r"neither a .jsonl nor a .csv"):
        FileTask(str(tmp_path / "prompts.txt"))
    with pytest.raises(DataError, match="has no rows"):
        FileTask(jsonl(tmp_path)).rows()
    with pytest.raises(UsageError, match="has no option 'drop_dab'; did you mean 'drop_bad'"):
        task(jsonl(tmp_path), drop_dab=True)


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *numbered(6))
    used = FileTask(path)
    assert FileTask(path, sha256=used.sha256) == used
    jsonl(tmp_path, *numbered(7))
    with pytest.raises(DataError, match=f"prompts.jsonl has changed since it was used.*{used.sha256[:12]}"):
        FileTask(path, sha256=used.sha256)
