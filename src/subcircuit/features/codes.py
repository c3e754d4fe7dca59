"""What features say of many tokens or prompts, kept sparse: only what is on is held.

Products of columns are taken on the sparse entries, for the features that are asked for; nothing here is as large as
features by features.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.errors import NumericalError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.harvest import activations
from subcircuit.features.placing import Placed
from subcircuit.prompts import Prompts
from subcircuit.sites import Site
from subcircuit.subject import Subject

__all__ = ["Codes", "Pool", "codes", "products"]

Pool = Literal["tokens", "mean"]  # a row a token, or a row a prompt


@dataclass(frozen=True)
class Codes:
    """Entries that are not 0, and how many rows and features there are."""

    row: Int[Tensor, " entry"]
    feature: Int[Tensor, " entry"]
    value: Float[Tensor, " entry"]
    rows: int
    features: int

    @classmethod
    def of(cls, dense: Float[Tensor, "row feature"]) -> "Codes":
        row, feature = dense.nonzero(as_tuple=True)
        return cls(row, feature, dense[row, feature], *dense.shape)

    def without(self, features: Sequence[int]) -> "Codes":
        """The same with these features never on."""
        kept = ~torch.isin(self.feature, torch.tensor(features, dtype=torch.long))
        return replace(self, row=self.row[kept], feature=self.feature[kept], value=self.value[kept])

    @cached_property
    def fired(self) -> Int[Tensor, " feature"]:
        """On how many rows each feature is on."""
        return self.feature.bincount(minlength=self.features)

    def alive(self, share: float, most: int) -> Int[Tensor, " alive"]:
        """Features on in at least this share of the rows, and not in all alike; of these those on most often."""
        usual = (self.fired >= max(2.0, share * self.rows)).nonzero()[:, 0]
        varying = usual[self.power(usual) > 0]
        order = self.fired[varying].argsort(descending=True, stable=True)
        return varying[order[:most]].sort().values

    def of_row(self, row: int) -> Float[Tensor, " feature"]:
        """All features of one row."""
        here = self.row == row
        found = torch.zeros(self.features, dtype=self.value.dtype)
        found[self.feature[here]] = self.value[here]
        return found

    def means(self, chosen: Int[Tensor, " chosen"]) -> Float[Tensor, " chosen"]:
        return self._sums(self.value.double())[chosen] / self.rows

    def power(self, chosen: Int[Tensor, " chosen"]) -> Float[Tensor, " chosen"]:
        """Variance of each of these features; 0 where it is but rounding."""
        squares = self._sums(self.value.double().square())[chosen] / self.rows
        found = squares - self.means(chosen).square()
        return found.where(found > 1e-10 * squares, torch.zeros_like(found))

    def columns(self, chosen: Int[Tensor, " chosen"]) -> Tensor:
        """These features of all rows, as a sparse matrix of float64."""
        place = torch.full((self.features,), -1)
        place[chosen] = torch.arange(len(chosen))
        column = place[self.feature]
        kept = column >= 0
        at = torch.stack([self.row[kept], column[kept]])
        shape = (self.rows, len(chosen))
        return torch.sparse_coo_tensor(at, self.value[kept].double(), shape, check_invariants=True).coalesce()

    def _sums(self, values: Float[Tensor, " entry"]) -> Float[Tensor, " feature"]:
        return torch.zeros(self.features, dtype=torch.float64).index_add_(0, self.feature, values)


def products(x: Tensor, y: Tensor) -> Float[Tensor, "x y"]:
    """`x'y` of sparse matrices of as many rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        found: Tensor = torch.sparse.mm(x.t(), y).to_dense()
    return found


@torch.no_grad()
def codes(
    subject: Subject,
    prompts: Prompts,
    dictionaries: Sequence[Placed],
    *,
    pool: Pool = "tokens",
    skip: int = 1,
    batch: int = 32,
) -> dict[Site, Codes]:
    """The features of every dictionary, by the site it reads at; rows in the order of the prompts.

    The first `skip` tokens of each prompt and padding are left out. Raises NumericalError for activations that are no
    numbers.
    """
    kept = prompts.mask.clone()
    kept[:, :skip] = False
    found: dict[Site, dict[int, Tensor]] = {each.reads: {} for each in dictionaries}

    def record(rows: Tensor) -> None:
        seen = activations(subject, prompts[rows], [each.reads for each in dictionaries])
        for each in dictionaries:
            for row, act in zip(rows.tolist(), seen[each.reads].flatten(2).float().cpu(), strict=True):
                x = act[kept[row, : len(act)].cpu()]
                found[each.reads][row] = _encoded(each.dictionary, x, pool, each.reads).to_sparse()

    batched(record, prompts.lengths, batch)
    return {site: _joined([parts[row] for row in range(len(prompts))]) for site, parts in found.items()}


def _encoded(dictionary: Dictionary, x: Float[Tensor, "token width"], pool: Pool, site: Site) -> Tensor:
    if not x.isfinite().all():
        raise NumericalError(f"the activations at {site} are not finite", "use float32 weights")
    features = dictionary.encode(x)
    return features if pool == "tokens" else features.mean(0, keepdim=True).nan_to_num(0.0)


def _joined(parts: Sequence[Tensor]) -> Codes:
    whole = torch.cat(list(parts)).coalesce()
    row, feature = whole.indices()
    return Codes(row, feature, whole.values(), *whole.shape)
