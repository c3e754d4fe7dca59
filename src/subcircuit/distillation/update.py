"""One step of the optimiser on a text that has been written: judge, gate, accumulate, step.

Sums over tokens are divided by the number of tokens of the whole update, over all micro-batches and processes, so that
the gradient does not depend on how rows are cut into micro-batches.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from subcircuit.batching import out_of_memory
from subcircuit.distillation.losses import Loss, entropy, gates, terms
from subcircuit.distillation.processes import Processes
from subcircuit.distillation.reading import Read, chunks, read, unembed
from subcircuit.distillation.speaking import Ending, Written
from subcircuit.errors import NumericalError, ResourceError

__all__ = ["Judge", "Updater"]

log = logging.getLogger(__name__)

CHUNK = 256  # tokens whose logits are there at a time
PerToken = Float[Tensor, " token"]
T = TypeVar("T")


class Judge:
    """The teacher, as reader of what the student wrote."""

    def __init__(self, model: PreTrainedModel, ending: Ending) -> None:
        self.model, self.ending = model, ending

    @torch.no_grad()
    def read(self, text: Written) -> tuple[Read, PerToken]:
        """Hidden states and the entropy of every judged token. Raises NumericalError where it is not a number."""
        found = read(self.model, text, self.ending.for_teacher(text.ids, text.response))
        parts = [entropy(self.logits(found.states[part])) for part in chunks(len(found), CHUNK)]
        entropies = torch.cat(parts) if parts else found.states.new_zeros(0)
        bad = (~entropies.isfinite()).nonzero()
        if len(bad):
            row = int(text.response[:, 1:].nonzero()[int(bad[0]), 0])
            raise NumericalError(
                f"the teacher's answer to row {row} of this batch is not a number at {len(bad)} of {len(found)} tokens",
                "load the teacher with --dtype float32, and check its weights",
            )
        return found, entropies

    def logits(self, states: Tensor) -> Tensor:
        return self.ending.as_student(unembed(self.model, states))


class Updater:
    """The student, its loss and its optimiser."""

    def __init__(
        self,
        student: PreTrainedModel,
        judge: Judge,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        micro: int,
        max_norm: float,
        processes: Processes,
    ) -> None:
        self.student, self.judge, self.loss, self.optimizer = student, judge, loss, optimizer
        self.micro, self.max_norm, self.processes = micro, max_norm, processes
        self.weights = [each for each in student.parameters() if each.requires_grad]

    def __call__(self, text: Written, old: PerToken | None = None) -> dict[str, float]:
        """Learn from a text; returns means over its tokens. Micro-batches are halved when memory runs out.

        `old`: the log-probability of each judged token when it was written, where the weights have changed since.
        """
        return self._fitting(text, lambda: self._step(text, old))

    @torch.no_grad()
    def chosen(self, text: Written) -> PerToken:
        """The log-probability of every judged token under the student as it is."""
        return self._fitting(text, lambda: torch.cat([self._chosen(part) for part in self._parts(text)]))

    def gradient(self, text: Written, old: PerToken | None = None) -> dict[str, float]:
        """Add the gradient of this text's loss; returns means over its tokens."""
        parts = self._parts(text)
        judged = [self.judge.read(part) for part in parts]
        entropies = torch.cat([each for _, each in judged])
        gate = gates(self.loss, self.processes.every(entropies))[self.processes.own(len(entropies))]
        total, gated = (float(self.processes.sum(each)) for each in (gate.new_tensor(len(gate)), gate.sum()))
        divisor = max(gated if self.loss.norm == "gated" else total, 1.0)
        sums: dict[str, float] = defaultdict(float)
        start = 0
        for part, (theirs, _) in zip(parts, judged, strict=True):
            span = slice(start, start + len(theirs))
            start = span.stop
            own = read(self.student, part)
            pieces = [
                self._piece(own, theirs, piece, gate[span], None if old is None else old[span])
                for piece in chunks(len(own), CHUNK)
            ]
            main, forward = (torch.stack([piece[place] for piece in pieces]).sum() for place in (0, 1))
            value = main / total + forward / divisor
            value.backward()
            sums["loss"] += float(value.detach()) * total
            for _, _, facts in pieces:
                for name, each in facts.items():
                    sums[name] += float(each)
        return self._means(sums, total)

    def _fitting(self, text: Written, work: Callable[[], T]) -> T:
        """What `work` gives, with micro-batches that fit in memory. Raises ResourceError."""
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.micro == 1:
                    message = f"one text of {text.ids.shape[1]} tokens does not fit in memory"
                    raise ResourceError(message, "lower new_tokens, or use a smaller model") from error
                if self.processes.count > 1:  # the others wait for sums that this one would begin anew
                    message = f"micro-batches of {self.micro} do not fit in memory"
                    raise ResourceError(message, f"--resume with --set micro={self.micro // 2}") from error
            self.micro //= 2
            log.warning("out of memory; going on with micro-batches of %d", self.micro)

    def _chosen(self, part: Written) -> PerToken:
        own, found = read(self.student, part), []
        for piece in chunks(len(own), CHUNK):
            logits = unembed(self.student, own.states[piece]).log_softmax(-1)
            found.append(logits.gather(-1, own.tokens[piece, None])[:, 0])
        return torch.cat(found)

    def _step(self, text: Written, old: PerToken | None) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        facts = self.gradient(text, old)
        for weight in self.weights:
            if weight.grad is not None:
                weight.grad = self.processes.sum(weight.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, self.max_norm))
        if not math.isfinite(norm):
            raise NumericalError(f"the gradient's norm is {norm}", "lower --lr, or load the models in float32")
        self.optimizer.step()
        return facts | {"gradient": norm}

    def _parts(self, text: Written) -> Sequence[Written]:
        return [text[slice(start, start + self.micro)] for start in range(0, len(text), self.micro)]

    def _piece(self, own: Read, theirs: Read, piece: slice, gate: PerToken, old: PerToken | None) -> Any:
        """Sums over a chunk; its logits are made again in the backward pass."""
        facts: dict[str, Tensor] = {}

        def run(states: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
            further = None
            if self.loss.lag1:
                further = (unembed(self.student, after), self.judge.logits(theirs.after[piece]))
            found = terms(
                self.loss,
                unembed(self.student, states),
                self.judge.logits(theirs.states[piece]),
                own.tokens[piece],
                None if old is None else old[piece],
                gate[piece],
                further,
            )
            facts.update(found.facts)
            return found.main.sum(), found.forward.sum()

        main, forward = checkpoint(run, own.states[piece], own.after[piece], use_reentrant=False)
        return main, forward, facts

    def _means(self, sums: dict[str, float], total: float) -> dict[str, float]:
        names = sorted(sums)
        values = self.processes.sum(torch.tensor([sums[name] for name in names], dtype=torch.float64)).tolist()
        found = dict(zip(names, values, strict=True))
        gated = found["gate"]
        for name in [name for name in found if name.endswith(", gated")]:
            found[name] = found[name] / gated if gated else 0.0
        means = {name: value if name.endswith(", gated") else value / total for name, value in found.items()}
        return means | {"tokens": total}
