"""Batches that halve when memory runs out: every row exactly once, whatever fits."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from subcircuit.batching import batched, out_of_memory
from subcircuit.errors import ResourceError


class Memory:
    """Work that has room for so many rows."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory")
        self.done: list[list[int]] = []

    def __call__(self, rows: Tensor) -> None:
        if len(rows) > self.room:
            raise self.error
        self.done.append(rows.tolist())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 50), st.integers(1, 50))
def test_every_row_is_done_exactly_once(lengths: list[int], size: int, room: int) -> None:
    memory = Memory(room)
    batched(memory, torch.tensor(lengths), size)
    rows = [row for batch in memory.done for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert max(map(len, memory.done)) <= min(size, room)


def test_shorter_rows_come_first() -> None:
    memory = Memory(99)
    batched(memory, torch.tensor([5, 3, 9, 3]), 2)
    assert memory.done == [[1, 3], [0, 2]]


def test_a_batch_is_halved_for_good_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(3)
    with caplog.at_level(logging.WARNING, "subcircuit.batching"):
        fitted = batched(memory, torch.ones(16, dtype=torch.long), 8)
    assert fitted == 2
    assert [len(batch) for batch in memory.done] == [2] * 8
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory at 8 prompts; going on with 4 at a time",
        "out of memory at 4 prompts; going on with 2 at a time",
    ]


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    with pytest.raises(ResourceError, match="one prompt of 7 tokens does not fit in memory") as refusal:
        batched(Memory(0), torch.tensor([7, 8]), 4)
    assert "shorter prompts" in refusal.value.cure


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")],
)
def test_other_allocators_run_out_in_their_own_words(error: Exception) -> None:
    memory = Memory(1, error)
    batched(memory, torch.tensor([1, 1, 1]), 3)
    assert sorted(memory.done) == [[0], [1], [2]]


def test_any_other_error_is_handed_on() -> None:
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        batched(Memory(0, error), torch.tensor([1, 1]), 2)
    assert not out_of_memory(error)
