"""What node pruning is run on: besides prompts and references, the full model's answers and what nodes cost."""

from functools import cached_property
from typing import Protocol, cast

from jaxtyping import Float
from torch import Tensor

from subcircuit.costs import Cost, Prices
from subcircuit.intervention import Reference, masked_logits
from subcircuit.methods._study import Settings, Study
from subcircuit.progress import Progress

__all__ = ["NodeStudy"]


class Priced(Settings, Protocol):
    """The settings of a method that makes a cost small."""

    @property
    def cost(self) -> str: ...


class NodeStudy(Study):
    """Raises UsageError where the folder holds the state of another search."""

    settings: Priced

    def prepare(self, tell: Progress) -> None:
        """Run the full model and its references once."""
        for done, part in enumerate(("corrupted", "full", "validation")):
            tell("references", done, 3)
            getattr(self, part)
        tell("references", 3, 3)

    @cached_property
    def corrupted(self) -> Reference:
        """The references of the discovery prompts."""
        return self.reference(self.pairs)

    @cached_property
    def full(self) -> Float[Tensor, "pair vocab"]:
        """The full model's logits on the discovery prompts."""
        return masked_logits(self.subject, self.pairs.clean, {}, self.corrupted, batch_size=self.settings.batch)

    @cached_property
    def prices(self) -> Prices:
        """What nodes of the gated kinds cost."""
        tokens = float(self.pairs.clean.lengths.float().mean())
        return Prices.of(self.subject, cast(Cost, self.settings.cost), tokens, self.kinds)
