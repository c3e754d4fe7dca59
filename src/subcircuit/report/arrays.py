"""Numbers and words of a page in one compressed block of text: a JSON header, then typed arrays it points into.

The block is gzip in base64, which a browser opens by itself. Inside: the header's length as a 32-bit integer, the
header, and after it the arrays, little-endian, each at a multiple of 8 bytes.
"""

import base64
import gzip
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Arrays", "Part", "Place", "packed"]

DTYPES: dict[str, str] = {"f4": "<f4", "u1": "<u1", "u2": "<u2", "u4": "<u4"}
ALIGNED = 8  # bytes; a typed array may only begin at a multiple of its item's size
FAST = 6  # level of gzip: scores are noise in their low bits, and higher levels gain next to nothing


class Part(BaseModel):
    """The root of all that the page is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(Part):
    """Where an array lies among the others."""

    dtype: Literal["f4", "u1", "u2", "u4"]
    shape: list[int]
    start: int = Field(description="bytes from where the arrays begin")


class Arrays:
    """Arrays in the order in which they were added."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, array: NDArray[Any], dtype: Literal["f4", "u1", "u2", "u4"]) -> Place:
        """Append an array; the answer is what a header needs to know of it."""
        data = np.ascontiguousarray(array, dtype=DTYPES[dtype]).tobytes()
        data += bytes(-len(data) % ALIGNED)
        place = Place(dtype=dtype, shape=list(array.shape), start=self._size)
        self._parts.append(data)
        self._size += len(data)
        return place

    def bytes(self) -> bytes:
        return b"".join(self._parts)


def packed(header: BaseModel, arrays: Arrays) -> str:
    """Header and arrays as text without a character that HTML reads otherwise. The same input gives the same text."""
    words = header.model_dump_json().encode()
    words += b" " * (-(4 + len(words)) % ALIGNED)
    block = len(words).to_bytes(4, "little") + words + arrays.bytes()
    return base64.b64encode(gzip.compress(block, FAST, mtime=0)).decode("ascii")
