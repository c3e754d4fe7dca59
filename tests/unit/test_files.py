"""Files that are there whole or not at all, and records that say what is wrong with them."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from subcircuit.errors import DataError, ResourceError
from subcircuit.files import atomically, load_record, save_record


class Shelf(BaseModel):
    schema_version: int = 2
    name: str
    books: int


def read(path: Path) -> Shelf:
    return load_record(Shelf, path, "a shelf", missing="build one", broken="build it again")


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    shelf = Shelf(name="poems · 詩", books=3)
    save_record(shelf, tmp_path / "new" / "shelf.json")
    assert read(tmp_path / "new" / "shelf.json") == shelf
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["shelf.json"]


def test_what_stops_a_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "shelf.json"
    path.write_text("old", encoding="utf-8")

    def full(beside: Path) -> None:
        beside.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match=r"shelf\.json cannot be written: .*No space left"):
        atomically(path, full)
    assert path.read_text(encoding="utf-8") == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["shelf.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"name": "a"}', "is not a shelf: books: Field required"),
        (b"[]", "is not a shelf: the whole: Input should be an object"),
        (b"{", "is not a shelf: the whole: Invalid JSON"),
        (b"\xff", "is not a shelf: 'utf-8' codec"),
        (b'{"schema_version": 1, "name": "a", "books": 1}', "has schema version 1; this version reads 2"),
    ],
)
def test_a_wrong_record_says_what_is_wrong_in_one_line(tmp_path: Path, text: bytes, says: str) -> None:
    path = tmp_path / "shelf.json"
    path.write_bytes(text)
    with pytest.raises(DataError) as raised:
        read(path)
    assert says in str(raised.value) and "build it again" in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 2  # what it is, and the cure


def test_a_missing_record_and_one_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing\nbuild one"):
        read(tmp_path / "none.json")
    with pytest.raises(DataError, match="is not a shelf"):
        read(tmp_path)
