"""The group that processes join, and what they tell each other in it.

Every process runs the same program on the same prompts; only passes of the model are shared out, and what they come to
is summed. Sums lie on the CPU and are small beside the passes, so one transport (gloo) serves all devices. Outside of
`joined` a process is alone, and all of this costs nothing.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from subcircuit.errors import ResourceError, UsageError
from subcircuit.parallel.place import Lost, started, started_as

__all__ = [
    "apart",
    "count",
    "every",
    "first_says",
    "joined",
    "of_first",
    "of_one",
    "own_device",
    "rank",
    "reaching",
    "require_same",
    "summed",
]

PATIENCE = 1800.0  # seconds: one process may have to fetch the model, or to halve its batches, while others wait
WAIT = "SUBCIRCUIT_WAIT"  # the environment variable that says otherwise
APART = ContextVar("APART", default=False)


@contextmanager
def joined(seconds: float | None = None) -> Iterator[None]:
    """Within the block this process is one of those that were started together; alone where there are no others.

    Args:
        seconds: how long to wait for another process before it counts as lost; by default $SUBCIRCUIT_WAIT, or half an
            hour.

    Raises ResourceError when the others cannot be reached; within the block `Lost`, of those, when one of them ends.
    """
    if started() == 1:
        yield
        return
    own_device()
    wait = timedelta(seconds=float(os.environ.get(WAIT, PATIENCE)) if seconds is None else seconds)
    try:
        dist.init_process_group("gloo", timeout=wait)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"process {started_as()} of {started()} does not reach the others: {str(error).splitlines()[0]}",
            "start all of them with accelerate launch or torchrun, on machines that reach its main address",
        ) from error
    try:
        yield
        with reaching():  # nobody leaves while another still waits for a sum
            dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def apart() -> Iterator[None]:
    """Within the block this process works for itself, whatever the others do: it shares no rows, and waits for none."""
    before = APART.set(True)
    try:
        yield
    finally:
        APART.reset(before)


def count() -> int:
    """How many processes share the rows."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """The number of this process among them; the first one, 0, writes and shows progress."""
    return dist.get_rank() if _together() else 0


def summed(*values: Tensor) -> None:
    """Add up each of these over all processes, in place. Raises `Lost`."""
    if count() == 1:
        return
    for value in values:
        here = value.detach().cpu().contiguous()
        with reaching():
            dist.all_reduce(here)
        if here.data_ptr() != value.data_ptr():
            value.detach().copy_(here)


def every(text: str) -> list[str]:
    """What every process says, in their order. Raises `Lost`."""
    if count() == 1:
        return [text]
    own = torch.tensor(list(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(count())]
    with reaching():
        dist.all_gather(lengths, torch.tensor([len(own)]))
        longest = max(int(length) for length in lengths)
        rows = [torch.zeros(longest, dtype=torch.uint8) for _ in range(count())]
        dist.all_gather(rows, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [bytes(row[: int(length)].tolist()).decode() for row, length in zip(rows, lengths, strict=True)]


def first_says(text: str) -> str:
    """What the first process says; of the others it does not matter. Raises `Lost`."""
    return every(text if rank() == 0 else "")[0]


def of_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first process's tensors, in every process; those of the others do not matter. Raises `Lost`."""
    return of_one(tensors, 0)


def of_one(tensors: Mapping[str, Tensor], teller: int) -> dict[str, Tensor]:
    """The tensors of one process, in every process. Raises `Lost`."""
    if count() == 1:
        return dict(tensors)
    forms = {name: (list(each.shape), str(each.dtype).removeprefix("torch.")) for name, each in tensors.items()}
    found: dict[str, Tensor] = {}
    for name, (shape, dtype) in json.loads(every(json.dumps(forms))[teller]).items():
        own = tensors[name].detach().cpu().contiguous() if rank() == teller else None
        found[name] = torch.empty(shape, dtype=getattr(torch, dtype)) if own is None else own
        with reaching():
            dist.broadcast(found[name], teller)
    return found


def require_same(
    values: Mapping[str, Any],
    called: Mapping[str, str] = MappingProxyType({}),
    told: Callable[[str], list[str]] = every,
) -> None:
    """Raise UsageError in every process, naming what differs, when two were started on different values.

    Args:
        called: what this process calls some of the values, which are hashes; names alone may differ.
        told: how a process hears what all of them say.
    """
    own = [{name: str(value) for name, value in values.items()}, dict(called)]
    said = [json.loads(row) for row in told(json.dumps(own))]
    first, _ = said[0]
    for other, (row, _) in enumerate(said):
        different = [name for name in {**first, **row} if first.get(name) != row.get(name)]
        if different:
            name = different[0]
            one, two = (f"{names.get(name, '')} {each.get(name)}".strip() for each, names in (said[0], said[other]))
            raise UsageError(
                f"processes 0 and {other} were started on different work: {', '.join(different)} "
                f"({name}: {one} and {two})",
                "start all of them with the same command, and on each machine with the same files",
            )


def own_device() -> None:
    """Let "cuda" mean this process's own device from here on, where several processes share a machine."""
    if started() > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and not APART.get()


@contextmanager
def reaching() -> Iterator[None]:
    """Within the block errors of the transport become `Lost`."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(
            f"process {started_as()} of {started()} has lost another one, which has ended or does not answer",
            "its own message, above or on its machine, says why; then go on with --resume",
        ) from error
