"""On-policy distillation: the student writes, the teacher judges every token. The loss is in `losses`.

Everything random is a function of the seed and the step, so the state of a run is its weights, its optimiser and the
number of steps taken: a run that goes on from its checkpoint takes the very steps it would have taken.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from subcircuit.distillation.folder import Distilled, write_taught
from subcircuit.distillation.losses import Loss
from subcircuit.distillation.processes import Processes
from subcircuit.distillation.speaking import Ending, Written, read_prompts, require_same_vocabulary
from subcircuit.distillation.state import STATE, State, claim, identity
from subcircuit.distillation.update import Judge, Updater
from subcircuit.distillation.writing import Writer
from subcircuit.errors import DataError, UsageError
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject

__all__ = ["STATE", "Distillation", "Distilled", "Loss", "read_prompts"]


@dataclass(frozen=True)
class Distillation:
    """Settings of a run."""

    loss: Loss = field(default_factory=Loss)
    steps: Annotated[int, "batches of prompts"] = 100
    batch: Annotated[int, "prompts a step"] = 16
    updates: Annotated[int, "steps of the optimiser for each batch"] = 1
    micro: Annotated[int, "rows in memory at a time; no result depends on it"] = 8
    new_tokens: Annotated[int, "longest response"] = 64
    lr: Annotated[float, "learning rate at the start, falling to 0 by a cosine"] = 1e-4
    weight_decay: Annotated[float, "AdamW's"] = 0.01
    max_norm: Annotated[float, "gradients are clipped to this norm"] = 1.0
    on_policy: Annotated[float, "share of batches that the student writes; the teacher writes the others"] = 1.0
    temperature: Annotated[float, "of what is written"] = 1.0
    top_p: Annotated[float, "of what is written"] = 1.0
    save_every: Annotated[int, "steps between checkpoints"] = 10
    seed: Annotated[int, "of prompts' order and of all that is written"] = 0

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name) for name in ("steps", "batch", "updates", "micro", "new_tokens", "save_every")
        }
        for name, value in counts.items():
            if value < 1:
                raise UsageError(f"{name} is {value}", "give 1 or more")
        if self.batch % self.updates:
            raise UsageError(f"a batch of {self.batch} does not divide into {self.updates} updates", "give another")
        if not 0 <= self.on_policy <= 1:
            raise UsageError(f"on-policy is {self.on_policy}", "give a share from 0 to 1")
        if self.loss.objective == "supervised" and self.on_policy:
            raise UsageError("supervised learning from the student's own words teaches nothing", "add --on-policy 0")

    def distil(
        self,
        student: Subject,
        teacher: Subject,
        prompts: Sequence[Sequence[int]],
        folder: Path | None = None,
        *,
        resume: bool = False,
        progress: Progress = silent,
    ) -> Distilled:
        """Teach the student, in place; with a `folder`, save it there, and its state on the way.

        Raises DataError for two vocabularies or prompts without room, UsageError for a folder that is not empty,
        NumericalError for a teacher or a gradient that is not a number, ResourceError when one row does not fit.
        """
        require_same_vocabulary(student, teacher)
        self._require_room(student, teacher, prompts)
        if folder is not None:
            claim(folder, resume)
        run = _Run(self, student, teacher, prompts)
        begun = run.restore(folder) if folder is not None and resume else 0
        for step in range(begun, self.steps):
            run.step(step)
            progress("distilling", step + 1, self.steps, **_shown(run.history[-1]))
            if folder is not None and ((step + 1) % self.save_every == 0 or step + 1 == self.steps):
                run.save(folder, step + 1)
        found = run.record()
        if folder is not None:
            run.finish(folder, found)
        return found

    def _require_room(self, student: Subject, teacher: Subject, prompts: Sequence[Sequence[int]]) -> None:
        room = min(int(each.model.config.max_position_embeddings) for each in (student, teacher)) - self.new_tokens
        long = [row for row, prompt in enumerate(prompts) if not 0 < len(prompt) <= room]
        if long or not prompts:
            what = f"prompt {long[0]} has {len(prompts[long[0]])} tokens" if long else "there are no prompts"
            raise DataError(f"{what}; there is room for 1 to {room}", "shorten prompts, or lower new_tokens")


class _Run:
    """A student on its way."""

    def __init__(
        self, settings: Distillation, student: Subject, teacher: Subject, prompts: Sequence[Sequence[int]]
    ) -> None:
        self.settings, self.student, self.teacher, self.prompts = settings, student, teacher, prompts
        self.processes = Processes()
        if settings.batch % (settings.updates * self.processes.count):
            shares = f"{settings.updates} updates in {self.processes.count} processes"
            raise UsageError(f"a batch of {settings.batch} does not divide into {shares}", "give another batch")
        model = student.model.requires_grad_(True)
        self.ending = Ending.of(model, teacher.model)
        self.optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=settings.weight_decay)
        self.update = Updater(
            model,
            Judge(teacher.model, self.ending),
            settings.loss,
            self.optimizer,
            micro=settings.micro,
            max_norm=settings.max_norm,
            processes=self.processes,
        )
        whose = identity(asdict(settings), student, teacher, prompts, self.processes.count)
        self.processes.require_same(whose, {"student": student.name, "teacher": teacher.name})
        self.state = State(whose, model, self.optimizer)
        pad = student.tokenizer.pad_token_id
        self.writer = Writer(
            new_tokens=settings.new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            pad=pad if pad is not None else 0,
        )
        self.history: list[dict[str, float]] = []

    def step(self, step: int) -> None:
        """Write a batch, and learn from it."""
        settings = self.settings
        text = self._written(step)
        share = len(text) // settings.updates
        parts = [text[slice(start, start + share)] for start in range(0, share * settings.updates, share)]
        later = settings.updates > 1 and settings.loss.looks_back  # the weights of later updates are others
        olds = [self.update.chosen(part) if later else None for part in parts]
        for number, (part, old) in enumerate(zip(parts, olds, strict=True)):
            done = (step * settings.updates + number) / (settings.steps * settings.updates)
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr * (1 + math.cos(math.pi * done)) / 2
            facts = self.update(part, old)
            self.history.append({"step": float(step), **facts, "truncated": text.truncated / len(text)})

    def _written(self, step: int) -> Written:
        settings, rank = self.settings, self.processes.rank
        rows = self._rows(step)[rank :: self.processes.count]
        seed = (settings.seed * 1_000_003 + step) * self.processes.count + rank
        lot = torch.rand(1, generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + step)).item()
        own = lot < settings.on_policy
        model, who = (self.student.model, "the student") if own else (self.teacher.model, "the teacher")
        stops = self.ending.stops if own or not self.ending.swap else (self.ending.swap[1],)
        text = self.writer(model, [self.prompts[row] for row in rows], stops, seed, who)
        return text if own else self.ending.from_teacher(text)

    def _rows(self, step: int) -> list[int]:
        """The prompts of a step: all of them once, in an order of its own, then all of them again."""
        batch, count = self.settings.batch, len(self.prompts)
        found: list[int] = []
        for place in range(step * batch, (step + 1) * batch):
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + place // count)
            found.append(int(torch.randperm(count, generator=generator)[place % count]))
        return found

    def save(self, folder: Path, done: int) -> None:
        """The state after `done` steps."""
        if self.processes.rank == 0:
            facts = {"done": done, "history": self.history, "micro": self.update.micro, "rows": self.writer.rows}
            self.state.save(folder, facts)
        self.processes.wait()

    def restore(self, folder: Path) -> int:
        """Go on from the folder's state; returns how many steps it has taken."""
        facts = self.state.restore(folder)
        if facts is None:
            return 0
        self.history, self.writer.rows = list(facts["history"]), facts["rows"]
        self.update.micro = min(self.update.micro, int(facts["micro"]))
        return int(facts["done"])

    def record(self) -> Distilled:
        return Distilled(
            student=self.student.name,
            teacher=self.teacher.name,
            settings=asdict(self.settings),
            prompts=len(self.prompts),
            tokens=int(sum(facts["tokens"] for facts in self.history)),
            history=self.history,
        )

    def finish(self, folder: Path, found: Distilled) -> None:
        """The student as a folder that loads like the one it came from."""
        if self.processes.rank == 0:
            write_taught(folder, self.student, found)
        self.processes.wait()


def _shown(facts: dict[str, float]) -> dict[str, float]:
    return {"KL": facts["forward KL"], "gate": facts["gate"], "tokens": facts["tokens"]}
