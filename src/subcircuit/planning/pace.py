"""How fast a model runs on a machine: measured by one step of the real thing, or assumed from operations."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from subcircuit.edge_gradients import edge_attribution
from subcircuit.edges import rewired_logits, writer_sites
from subcircuit.gradients import attribution
from subcircuit.intervention import Reference, acting
from subcircuit.planning.formulas import operations
from subcircuit.planning.shape import Shape
from subcircuit.planning.work import Load, Passes
from subcircuit.sites import Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.wiring import Wiring

__all__ = ["Pace", "assumed", "measured"]

Span = tuple[float, float]

ROUNDS = 2  # timed, after one that warms up
FASTER, SLOWER = 0.85, 1.3  # a run beside one of its steps; measured on the configurations of the benchmark
# Operations a second: of a core, measured on two cores of an AMD EPYC of 2021 in float32, give or take what processors
# differ by; of a GPU, assumed: a tenth to four tenths of the 989 TFLOP/s in bfloat16 that NVIDIA states for an H100.
RATES: dict[str, Span] = {"cpu": (2e10, 9e10), "mps": (1e12, 5e12), "cuda": (1e14, 4e14)}
GRADIENT = 2.2  # forward passes that one with its gradient takes: no weight has one; measured
REWIRED = (1.5, 4.0)  # the same of a pass with edges closed, and
EDGES = (3.0, 9.0)  # of one that scores or gates edges; measured on 30 layers of 9 heads
KINDS = {"forward": 1.0, "gradient": 4.4, "rewired": 2.0, "edges": 6.0}  # starting them, over a forward pass
LAYER = (2.5e-4, 1e-3)  # seconds that Python takes to start a layer, however fast what it starts is; measured


@dataclass(frozen=True)
class Pace:
    """Seconds a prompt, from fast to slow."""

    forward: Span
    gradient: Span
    rewired: Span
    edges: Span
    measured: bool
    least: Span = (0.0, 0.0)  # seconds of a forward pass, however few its prompts; a measured step has them in it

    def seconds(self, passes: Passes, rows: int, processes: int = 1) -> Span:
        """Of all passes of so many prompts, when processes share each of them."""
        low, high = (
            sum(
                getattr(passes, kind)[end] * (getattr(self, kind)[end] / processes + self.least[end] * times / rows)
                for kind, times in KINDS.items()
            )
            for end in (0, 1)
        )
        return FASTER * low, SLOWER * high


def measured(subject: Subject, pairs: Pairs, sites: list[Site], rows: int, *, edges: bool = False) -> Pace:
    """One forward pass and one with its gradient over `rows` of the pairs; for a method on `edges`, theirs as well.

    Raises as the passes do: ResourceError when a single prompt does not fit.
    """
    few = pairs[torch.arange(min(rows, len(pairs)))]
    zero = Reference(subject, "zero", few.clean, few.corrupt, acting(sites))

    @torch.no_grad()
    def forward() -> None:
        subject.logits(few.clean)

    once = _timed(forward, len(few))
    both = _timed(lambda: attribution(subject, few, zero, batch_size=len(few)), len(few))
    slow, fast = sorted((max(both[at] - once[at], once[at]) for at in (0, 1)), reverse=True)
    gradient = (fast, slow)
    if not edges:
        return Pace(once, gradient, once, gradient, True)
    wiring, blank = Wiring.of(subject.layout), Reference(subject, "zero", few.clean, few.corrupt, writer_sites(subject))
    half = (torch.rand(wiring.allowed.shape, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return Pace(
        once,
        gradient,
        _timed(lambda: rewired_logits(subject, wiring, few.clean, half, blank, batch_size=len(few)), len(few)),
        _timed(lambda: edge_attribution(subject, wiring, few, blank, batch_size=len(few)), len(few)),
        True,
    )


def assumed(shape: Shape, load: Load, device: str) -> Pace:
    """From the operations of a pass and what devices of this kind do in a second: a wide interval."""
    slow, fast = RATES[device]
    cores = (os.cpu_count() or 1) if device == "cpu" else 1
    work = operations(shape, load.mean, load.mean)
    once = (work / (fast * cores), work / (slow * cores))

    def times(low: float, high: float) -> Span:
        return once[0] * low, once[1] * high

    least = (LAYER[0] * shape.layers, LAYER[1] * shape.layers)
    return Pace(once, times(GRADIENT, GRADIENT), times(*REWIRED), times(*EDGES), False, least)


def _timed(run: Callable[[], object], prompts: int) -> Span:
    """The fastest and the slowest of a few, in seconds a prompt."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append((perf_counter() - start) / prompts)
    return min(seconds[1:]), max(seconds[1:])
