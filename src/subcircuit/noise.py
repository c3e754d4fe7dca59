"""Gaussian noise on the embeddings of chosen tokens: the corruption of causal tracing (Meng et al. 2022, ROME).

It is added to what enters the first layer, three standard deviations of that. Departs from the original: the deviation
is taken over the prompts' own tokens, positions included where a family has added them by then; and the tokens are
those in which a clean prompt differs from its corrupted one, so that a task says by its pairs what the subject is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject

__all__ = ["Noise"]

LEVEL = 3.0  # standard deviations
SAMPLE = 64  # prompts over which the deviation is taken
ENTRY = Site(0, Kind.RESID)


class Noise:
    """A fixed draw for every prompt of `clean`, by `seed`; `everywhere`: on all tokens, not only those that differ."""

    def __init__(self, subject: Subject, clean: Prompts, corrupt: Prompts, *, everywhere: bool, seed: int) -> None:
        self.subject = subject
        some = clean[:SAMPLE]
        entering = subject.record(some, [ENTRY])[1][ENTRY].float().cpu()
        level = LEVEL * entering[some.mask].std()
        drawn = torch.randn(*clean.ids.shape, 1, entering.shape[-1], generator=torch.Generator().manual_seed(seed))
        chosen = clean.mask if everywhere else (clean.ids != corrupt.ids) & clean.mask
        self.values: Float[Tensor, "prompt pos 1 channel"] = level * drawn * chosen[:, :, None, None]

    @contextmanager
    def added(self, rows: Tensor) -> Iterator[None]:
        """Within the block, a pass over these rows of the prompts is a noisy one."""
        values = self.values[rows]

        def add(act: Tensor) -> Tensor:
            noise = values[:, : act.shape[1]].to(act.device, act.dtype)
            return act + pad(noise, (0, 0, 0, 0, 0, act.shape[1] - noise.shape[1]))  # an answer may follow

        with self.subject.editing({ENTRY: add}):
            yield
