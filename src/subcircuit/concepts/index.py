"""What each row of a harvest is: its text, its word and where it stands. Kept as Parquet, which needs pyarrow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subcircuit.errors import DataError, MissingExtra

__all__ = ["SENTENCE", "Index"]

SENTENCE = -1  # in the place of a word's number: the state at the judged position, kept of every text
NUMBERS = ("text", "place", "start", "position")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Index:
    """One entry a row of states, text after text."""

    text: Ints
    place: Ints  # of the word among the words of its text; SENTENCE for the judged position
    start: Ints  # in the text, in characters
    position: Ints  # token position in the prompt
    word: Ints  # number in `words`; SENTENCE for the judged position
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.text)

    def write(self, path: Path) -> None:
        """As Parquet. Raises MissingExtra."""
        arrow, parquet = _arrow()
        numbers = arrow.array(self.word.astype(np.int32), mask=self.word == SENTENCE)
        words = arrow.DictionaryArray.from_arrays(numbers, arrow.array(self.words, "string"))
        columns = {name: getattr(self, name).astype(np.int32) for name in NUMBERS}
        parquet.write_table(arrow.table({**columns, "word": words}), path)

    @classmethod
    def read(cls, path: Path) -> "Index":
        """Raises MissingExtra, DataError."""
        _, parquet = _arrow()
        try:
            table = parquet.read_table(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}", "remove the states and harvest again") from error
        columns = {name: table[name].to_numpy().astype(np.int64) for name in NUMBERS}
        spelled = table["word"].cast("string").to_pylist()
        words = tuple(sorted({word for word in spelled if word is not None}))
        numbers = {word: number for number, word in enumerate(words)}
        found = np.array([SENTENCE if word is None else numbers[word] for word in spelled], dtype=np.int64)
        return cls(**columns, word=found, words=words)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("the index of a harvest", "concepts") from error
    return pyarrow, pyarrow.parquet
