"""What every baseline starts from: prompts, references, the record of where a circuit comes from, and a memory.

The memory holds what is already computed; with a folder it outlives an interruption.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.checkpoint import Checkpoint
from subcircuit.circuit import Origin
from subcircuit.errors import Interrupted, NumericalError, UnknownName, UsageError
from subcircuit.finishing import Validation
from subcircuit.intervention import ACTING, Fill, Reference, acting
from subcircuit.parallel.group import count, first_says, of_first, rank, require_same
from subcircuit.sites import Kind, Site
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["NODES", "Settings", "Study", "check", "gated", "require", "require_finite", "require_room"]

NODES = tuple(kind for kind in Kind if any(kind in line for line in ACTING.values()))  # granularities that have gates


class Settings(Protocol):
    """The fields that all baselines have."""

    @property
    def kinds(self) -> str: ...
    @property
    def pairs(self) -> int: ...
    @property
    def validation(self) -> int: ...
    @property
    def reference(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def cache_gb(self) -> float: ...


class Study:
    """What a method is run on: a model, discovery prompts and validation prompts, and what it has computed so far.

    Of several processes only the first one reads and writes the folder.

    Raises UsageError where the folder holds the state of another search, or another process was started on other work.
    """

    def __init__(
        self,
        method: str,
        settings: Settings,
        subject: Subject,
        task: Task,
        pairs: Pairs | None = None,
        folder: Path | None = None,
    ) -> None:
        self.began = perf_counter()
        self.method, self.settings, self.subject, self.task = method, settings, subject, task
        self.pairs = pairs or task.pairs(subject.tokenizer, settings.pairs, seed=settings.seed, split="train")
        self.kinds = gated(settings.kinds)
        self.sites = subject.sites(*self.kinds)
        self.path = folder / "search.safetensors" if folder and rank() == 0 else None
        self.memory = self._remembered(asdict(cast(Any, settings)) | self._identity())

    def reference(self, by: Pairs, *, share: float = 0.5, swapped: bool = False) -> Reference:
        """What fills nodes of these prompts that are off, cached in `share` of the memory for caches.

        Swapped: clean values, for corrupted prompts.
        """
        return Reference(
            self.subject,
            cast(Fill, self.settings.reference),
            by.corrupt if swapped else by.clean,
            by.clean if swapped else by.corrupt,
            self.filled,
            source=self.pairs.clean,
            seed=self.settings.seed,
            cache_bytes=int(share * self.settings.cache_gb * 2**30),
            batch_size=self.settings.batch,
        )

    @property
    def filled(self) -> list[Site]:
        """Where references are needed."""
        return acting(self.sites)

    @cached_property
    def validation(self) -> Validation:
        """KL on prompts that no score was computed on."""
        settings = self.settings
        held_out = self.task.pairs(self.subject.tokenizer, settings.validation, seed=settings.seed, split="validation")
        return Validation(self.subject, held_out, self.reference(held_out), settings.batch)

    def kl(self, kept: dict[Site, Tensor]) -> float:
        """KL of a hard circuit on the validation prompts. Raises NumericalError when it is no number."""
        kl = self.validation.kl(kept)
        if not math.isfinite(kl):
            raise NumericalError(f"the circuit's KL is {kl}", "use float32 weights, or check the prompts")
        return kl

    def empty(self) -> dict[Site, Float[Tensor, " unit"]]:
        """A 0 for every node."""
        return {site: torch.zeros(self.subject.units(site.kind)) for site in self.sites}

    def keep(self, tensors: Mapping[str, Tensor], **facts: float) -> None:
        """Add to the memory; on disk where there is a folder."""
        self.memory.tensors |= {name: value.clone() for name, value in tensors.items()}
        self.memory.facts |= facts
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.memory.save(self.path)

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Within the block Ctrl-C becomes Interrupted, where a folder holds what is done."""
        try:
            yield
        except KeyboardInterrupt as stop:
            if self.path is None:
                raise
            raise Interrupted("the search was stopped; what it has computed is kept", "go on with --resume") from stop

    def origin(self, result: dict[str, float], **settings: float) -> Origin:
        """Where a circuit that is found now comes from; `settings` that differ from the method's own."""
        subject, own = self.subject, self.settings
        return Origin(
            model=subject.name,
            revision=subject.revision,
            family=subject.family_name,
            dtype=str(subject.dtype).removeprefix("torch."),
            task=self.task.name,
            task_options=self._task_options(),
            method=self.method,
            settings=asdict(cast(Any, own)) | settings,
            reference=own.reference,
            seed=own.seed,
            pairs={"train": len(self.pairs), "validation": own.validation},
            seconds=perf_counter() - self.began,
            result=result,
        )

    def _remembered(self, values: dict[str, Any]) -> Checkpoint:
        """What the folder holds. All processes go on from what the first one reads."""
        if count() > 1:
            where = {"revision": self.subject.name, "prompts": str(self._task_options().get("path", self.task.name))}
            require_same(_work(values) | {"configuration": self.subject.model.config.to_json_string()}, where)
        saved = (Checkpoint.load(self.path, values) if self.path else None) or Checkpoint(values)
        return Checkpoint(values, of_first(saved.tensors), json.loads(first_says(json.dumps(saved.facts))))

    def _task_options(self) -> dict[str, Any]:
        task = self.task
        return asdict(task) if is_dataclass(task) and not isinstance(task, type) else {}

    def _identity(self) -> dict[str, Any]:
        """What a state on disk must share with a search besides its settings: model, task and the very prompts."""
        digest = hashlib.sha256()
        for prompts in (self.pairs.clean, self.pairs.corrupt):
            digest.update(prompts.ids.cpu().numpy().tobytes())
        subject = self.subject
        model = {"model": subject.name, "revision": subject.revision, "dtype": str(subject.dtype)}
        task = {"task": self.task.name, "task_options": self._task_options()}
        return model | task | {"prompts": digest.hexdigest()[:16]}


def _work(values: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two processes' work the same: paths, of which each machine may have its own, are told by content."""
    return {name: value for name, value in values.items() if name not in ("model", "task", "task_options")}


def gated(kinds: str) -> list[Kind]:
    """Granularities from "head,mlp", each once. Raises UnknownName."""
    names = [name.strip() for name in kinds.split(",")]
    for name in names:
        if name not in NODES:
            raise UnknownName("granularity", name, NODES)
    return [kind for kind in NODES if kind in names]


def check(settings: Settings) -> None:
    """Refuse values that make no sense in the fields all baselines have. Raises UsageError or UnknownName."""
    gated(settings.kinds)
    if settings.reference not in get_args(Fill):
        raise UnknownName("reference", settings.reference, get_args(Fill))
    for name in ("pairs", "validation", "batch"):
        require(settings, name, getattr(settings, name) >= 1, "at least 1")
    require(settings, "seed", settings.seed >= 0, "0 or more")
    require(settings, "cache_gb", 0 <= settings.cache_gb < math.inf, "a number of gigabytes, 0 or more")


def require(settings: object, name: str, right: bool, form: str) -> None:
    if not right:
        raise UsageError(f"{name} is {getattr(settings, name)}", f"give {form}")


def require_room(passes: int, limit: int, counted: str) -> None:
    """Raise UsageError when a method would take more passes of one prompt than it may."""
    if passes > limit:
        raise UsageError(
            f"{counted} make {passes:,} passes of one prompt; the limit is {limit:,}",
            f"--limit {passes} goes on all the same; fewer --pairs or coarser --kinds take fewer, and "
            "attribution-patching scores all nodes in a few",
        )


def require_finite(effects: Tensor, where: object) -> None:
    """Raise NumericalError, naming the place, when an effect is no number."""
    if not effects.isfinite().all():
        raise NumericalError(f"an effect at {where} is not finite", "use float32 weights, or check the prompts")
