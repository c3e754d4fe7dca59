"""A plan: what a run takes on this machine, whether that fits, and if not, what would."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from subcircuit.errors import UnknownName
from subcircuit.methods._study import gated
from subcircuit.planning import formulas
from subcircuit.planning.machine import Machine
from subcircuit.planning.needs import METHODS, RUN_AGAIN
from subcircuit.planning.pace import Pace, assumed
from subcircuit.planning.shape import BYTES, Shape
from subcircuit.planning.work import Load, Needs, Work
from subcircuit.sites import Kind
from subcircuit.subject import Subject
from subcircuit.tasks._base import Task

__all__ = ["Estimate", "draw", "estimate", "needs_of", "work_of"]

COARSE = "block,attn,mlp,head"
FINE = (Kind.CHANNEL, Kind.NEURON, Kind.MLP_OUT)
BY_LAYER = ("weights", "references", "recorded", "activations")  # what lies where its layer does


class Estimate(BaseModel):
    """What a run takes, and what there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = Field(description="the verb and its method")
    model: str
    dtype: str
    device: str
    processes: int = Field(description="that share the prompts; each needs the memory")
    moment: str = Field(description="when memory is dearest")
    parts: dict[str, int] = Field(description="bytes at that moment, by what they hold; they add up to the peak")
    peak: int = Field(description="bytes of memory, per device")
    memory: int = Field(description="bytes of it that there are")
    disk: int = Field(description="bytes in the run folder")
    disk_free: int
    seconds: tuple[float, float] = Field(description="wall-clock time after loading, at least and at most")
    measured: bool = Field(description="whether the time is from a measured step; else from assumed speeds")
    fits: bool
    options: list[str] = Field(description="where it does not fit: what would make it fit, each by itself or all of it")
    about: list[str] = Field(default_factory=list, description="what else to know of these numbers")


def draw(task: Task, subject: Subject, own: Any) -> Load:
    """The prompts of a search, of which only the lengths matter. Raises DataError as the task does."""
    train = task.pairs(subject.tokenizer, own.pairs, seed=own.seed, split="train")
    validation = task.pairs(subject.tokenizer, own.validation, seed=own.seed, split="validation")
    sides = [each.clean.lengths for each in (train, validation)]
    longest = max(int(lengths.max()) for lengths in sides)
    return Load(len(sides[0]), len(sides[1]), longest, float(sides[0].float().mean()))


def work_of(method: str, own: Any, shape: Shape, load: Load, *, checkpointing: bool = False) -> Work:
    """Raises UnknownName for a method that has no plan."""
    if method not in METHODS:
        raise UnknownName("plan of a method", method, METHODS)
    return Work(shape, own, load, gated(own.kinds), checkpointing)


def needs_of(method: str, work: Work) -> Needs:
    return METHODS[method](work)


def estimate(
    what: str,
    work: Work,
    machine: Machine,
    *,
    needs: Needs | None = None,
    pace: Pace | None = None,
    processes: int = 1,
    spread: bool = False,
) -> Estimate:
    """The plan of a search, or of what `needs` says; `what` is the method.

    Args:
        pace: measured; by default assumed, with a wide interval.
        processes: that share the prompts; on a CPU all of them live in its memory.
        spread: whether the weights lie on all devices.
    """
    needs = needs or needs_of(what, work)
    moment, parts = _peak(work.shape, needs, machine, spread)
    room = machine.memory / (processes if machine.device == "cpu" else 1)
    disk = needs.disk
    fits = sum(parts.values()) <= room and disk <= machine.disk
    speed = pace or assumed(work.shape, work.load, machine.device)
    dtype = next(name for name, size in BYTES.items() if size == work.shape.itemsize)
    return Estimate(
        what=what,
        model=work.shape.name,
        dtype=dtype,
        device=machine.device,
        processes=processes,
        moment=moment,
        parts={name: round(value) for name, value in parts.items() if value >= 1},
        peak=round(sum(parts.values())),
        memory=round(room),
        disk=round(disk),
        disk_free=round(machine.disk),
        seconds=speed.seconds(needs.passes, work.rows, min(processes, work.rows)),  # more have no prompt of their own
        measured=speed.measured,
        fits=fits,
        options=[] if fits else _options(what, work, machine, room, spread),
        about=list(needs.about),
    )


def _peak(shape: Shape, needs: Needs, machine: Machine, spread: bool) -> tuple[str, dict[str, float]]:
    """The dearest moment on one device. Loading is none: what is read is mapped, and given back when it must be."""
    process = formulas.CONTEXT if machine.device == "cuda" else formulas.PROCESS
    moment, parts = needs.peak()
    found = {"process": float(process), "weights": formulas.weights(shape)} | parts
    for name in BY_LAYER if spread else ():
        found[name] = found.get(name, 0.0) / machine.devices
    return moment, found


def _options(what: str, work: Work, machine: Machine, room: float, spread: bool) -> list[str]:
    """Every change that is enough by itself; else all of them together, if that is."""
    changes = list(_changes(what, work, machine, spread))
    found = [text for text, changed, over in changes if _fits(what, changed, machine, room, over)]
    if found:
        return _first_of_each(found)
    everything = work
    for text, changed, _ in changes:
        if not text.startswith("--device"):
            shape = changed.shape if changed.shape != work.shape else everything.shape
            kinds = changed.kinds if changed.kinds != work.kinds else everything.kinds
            own = _merged(everything.own, changed.own, work.own)
            again = changed.checkpointing or everything.checkpointing
            everything = Work(shape, own, work.load, kinds, again)
    if _fits(what, everything, machine, room, spread or machine.devices > 1):
        words = [text for text, *_ in changes if not text.startswith("--batch")] + ["--batch 1"]
        return [" ".join(words)]
    return []


def _changes(what: str, work: Work, machine: Machine, spread: bool) -> Iterator[tuple[str, Work, bool]]:
    own: Any = work.own
    if own.cache_gb > 0:
        yield "--cache-gb 0", replace(work, own=replace(own, cache_gb=0.0)), spread
    batch = own.batch
    while batch > 1:
        batch //= 2
        yield f"--batch {batch}", replace(work, own=replace(own, batch=batch)), spread
    if what in RUN_AGAIN and not work.checkpointing:
        yield "--checkpointing", replace(work, checkpointing=True), spread
    if work.shape.itemsize > BYTES["bfloat16"]:
        yield "--dtype bfloat16", replace(work, shape=work.shape.stored_as("bfloat16")), spread
    if any(kind in FINE for kind in work.kinds) and isinstance(own.kinds, str):
        yield f"--kinds {COARSE}", replace(work, kinds=gated(COARSE)), spread
    if machine.devices > 1 and not spread:
        yield "--device spread", work, True


def _merged(so_far: Any, changed: Any, before: Any) -> Any:
    differing = {name: value for name, value in vars(changed).items() if value != getattr(before, name)}
    return replace(so_far, **differing)


def _fits(what: str, work: Work, machine: Machine, room: float, spread: bool) -> bool:
    if what not in METHODS:
        return False
    return sum(_peak(work.shape, needs_of(what, work), machine, spread)[1].values()) <= room


def _first_of_each(options: list[str]) -> list[str]:
    """The mildest of the changes of each option."""
    seen: dict[str, str] = {}
    for text in options:
        seen.setdefault(text.partition(" ")[0], text)
    return list(seen.values())
