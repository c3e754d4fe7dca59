"""Activation patching: every node's effect by a pass of its own, exactly.

Also called causal tracing or interchange intervention (Vig et al. 2020; Meng et al. 2022; Wang et al. 2023). "noise"
puts the corrupted value of one node into the clean run and asks what breaks; "denoise" puts the clean value of one node
into the corrupted run and asks what is restored (Heimersheim & Nanda 2024).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from safetensors.torch import save_file
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.errors import DataError, UnknownName, UsageError
from subcircuit.methods._patch_grid import by_layers, effects_name
from subcircuit.methods._patching import Direction, Metric, Patching, directions
from subcircuit.methods._ranked import check_target, circuit
from subcircuit.methods._study import Study, check, require, require_room
from subcircuit.parallel.group import rank
from subcircuit.progress import Progress, silent
from subcircuit.shards.launcher import Launcher
from subcircuit.sites import Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["ActivationPatching"]

MAP = "positions.safetensors"


@dataclass(frozen=True)
class ActivationPatching:
    """Patch every node by itself, and keep those whose patches change the answers most."""

    kl: Annotated[float, "budget: KL(full || circuit) at the judged position, in nats, on validation prompts"] = 0.3
    size: Annotated[float | None, "in place of the budget: the share of each granularity to keep, 0 to 1"] = None
    rank: Annotated[str, "by magnitude, or signed: what helps most first, what hurts last"] = "magnitude"
    kinds: Annotated[str, "granularities; also attn, block, neuron, channel, mlp_out, q, k, v, kv"] = "head,mlp"
    direction: Annotated[str, "noise (corrupted into clean), denoise (clean into corrupted) or both, averaged"] = (
        "noise"
    )
    metric: Annotated[str, "logit-difference, kl or probability"] = "logit-difference"
    positions: Annotated[bool, "besides, the effect at every position alone, into positions.safetensors"] = False
    pairs: Annotated[int, "discovery prompt pairs"] = 32
    validation: Annotated[int, "validation prompt pairs, for the size of the circuit"] = 64
    reference: Annotated[str, "what fills a closed node: corrupt, mean, zero or resample"] = "corrupt"
    limit: Annotated[int, "passes of one prompt, at most; a search that needs more is refused before it starts"] = 50000
    batch: Annotated[int, "prompts in a pass, each with a node of its own patched"] = 64
    seed: Annotated[int, "seed of the prompts"] = 0
    cache_gb: Annotated[float, "reference activations kept in memory, at most; what does not fit is recomputed"] = 2.0

    def find(
        self,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        *,
        folder: Path | None = None,
        progress: Progress = silent,
        launcher: Launcher | None = None,
    ) -> Circuit:
        """The circuit of the nodes with the largest effects, which are its scores; `launcher` patches layer by layer.

        Raises UsageError for more passes than the limit, DataError for positions over prompts of several lengths,
        NumericalError when an effect is not finite, Interrupted when stopped while a `folder` keeps the state,
        ResourceError when a job of the launcher fails.
        """
        study = Study("activation-patching", self, subject, task, pairs, folder)
        length = self._length(study, folder)
        passes = self._passes(study, length)
        with study.resumable():
            patching = Patching(study, self.direction, self.metric)
            if launcher is not None:
                by_layers(study, patching, self, length, launcher, progress)
            scores = _each_site(study, patching, 0, "patching", progress)
            if folder and length:
                maps = _each_site(study, patching, length, "positions", progress)
                if rank() == 0:
                    _save({str(site): effects for site, effects in maps.items()}, folder / MAP)
            return circuit(study, scores, self, progress, gap=patching.gap, passes=passes)

    def __post_init__(self) -> None:
        check(self)
        check_target(self)
        for name, known in {"direction": Direction, "metric": Metric}.items():
            if getattr(self, name) not in get_args(known):
                raise UnknownName(name, getattr(self, name), get_args(known))
        require(self, "limit", self.limit >= 1, "at least 1")
        if self.direction != "noise" and self.reference != "corrupt":
            raise UsageError(
                f"direction {self.direction} with reference {self.reference}",
                "clean values are patched into the corrupted run: leave reference at corrupt, or use direction noise",
            )

    def _length(self, study: Study, folder: Path | None) -> int:
        """How many positions a map has; 0 where none is asked for."""
        if not self.positions:
            return 0
        if folder is None:
            raise UsageError(f"positions are written to {MAP}, and there is no folder", "give find a folder")
        lengths = study.pairs.clean.lengths
        other = (lengths != lengths[0]).nonzero()[:, 0].tolist()
        if other:
            raise DataError(
                f"positions do not match in prompts of several lengths: row 0 has {int(lengths[0])} tokens, "
                f"row {other[0]} has {int(lengths[other[0]])}",
                "give prompts of one length, or leave out --positions",
            )
        return int(lengths[0])

    def _passes(self, study: Study, length: int) -> int:
        """Passes of one prompt that the search takes. Raises UsageError when they are above the limit."""
        nodes, ways = sum(study.subject.units(site.kind) for site in study.sites), len(directions(self.direction))
        passes = nodes * len(study.pairs) * ways * (1 + length)
        counted = f"{nodes:,} nodes, {len(study.pairs)} pairs" + (", two directions" if ways > 1 else "")
        require_room(passes, self.limit, counted + (f", and each of {length} positions" if length else ""))
        return passes


def _each_site(study: Study, patching: Patching, length: int, phase: str, tell: Progress) -> dict[Site, Tensor]:
    """Effects site by site, each remembered as soon as it is there."""
    units = {site: study.subject.units(site.kind) for site in study.sites}
    done = 0
    for site in study.sites:
        name = effects_name(site, length)
        if name not in study.memory.tensors:
            study.keep({name: patching.effects(site, length)})
        done += units[site]
        tell(phase, done, sum(units.values()))
    return {site: study.memory.tensors[effects_name(site, length)] for site in study.sites}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, partial := path.with_suffix(".safetensors.part"))
    os.replace(partial, path)
