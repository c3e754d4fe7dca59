"""Three hypothesis tests of Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs" (arXiv 2410.13032).

s is a prompt's logit difference, M the model, C the circuit, R the model without the circuit.

* Equivalence. H0: `|P(s(C) > s(M)) - 1/2| <= eps`, eps = .1; the p-value is that of a binomial at the edge of H0.
* Independence. H0: s(R) and s(M) are independent; HSIC with Gaussian kernels, by permutation.
* Minimality, node by node. With `d(v, C)` the mean absolute change of s when v is closed, H0: d(v, C) is larger than
  `d(u, C + u)` of a random node u outside the circuit with probability at least q = .9; rejected = v is redundant.

Departures. Ties (equal but for rounding, as a perfect circuit gives) count half for either side. Permutation p-values
count the observed order in, so they are never 0; each kernel has its own median bandwidth. Minimality tests nodes where
theirs tests edges, opens one node where theirs adds a path, takes absolute changes where their code squares them, and
is corrected for the number of nodes (Bonferroni). With few nodes outside the circuit each is tried once.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subcircuit.evaluation.setting import Result, Setting

__all__ = ["Redundancy", "Tested", "equivalence", "hsic", "independence", "redundancy", "tail"]

TIE = 1e-4  # of the largest score: rounding of another order of the same sums
Scores = Float[Tensor, " prompt"]


class Tested(Result):
    """One test. What is not rejected is not proven."""

    hypothesis: str = Field(description="H0, in words")
    statistic: float
    p: float
    alpha: float
    rejected: bool


class Redundancy(Result):
    """The minimality test of every node that was closed by itself."""

    hypothesis: str = "closing the node changes more than closing a random node outside the circuit does"
    quantile: float = Field(description="q: how often it must change more")
    alpha: float = Field(description="before it is divided by the number of nodes")
    p: dict[str, float] = Field(description="by node, not corrected")
    redundant: list[str] = Field(description="nodes for which H0 is rejected")
    inflated: list[float] = Field(description="changes by random nodes outside the circuit")

    @property
    def rejected(self) -> bool:
        """Whether the circuit is not minimal."""
        return bool(self.redundant)


def equivalence(
    circuit: Scores, full: Scores, setting: Setting, *, epsilon: float = 0.1, alpha: float = 0.05
) -> Tested:
    """Whether the circuit does better than the model about as often as worse."""
    difference = (circuit - full).double()
    scale = torch.cat([circuit, full]).abs().max().double()
    ties = difference.abs() <= TIE * scale
    n = len(difference)
    wins = float(((difference > 0) & ~ties).sum() + 0.5 * ties.sum())
    p = tail(n, 0.5 + epsilon, lambda k: abs(k - n / 2) >= abs(wins - n / 2) - 1e-9)
    return Tested(
        setting=setting,
        hypothesis=f"the circuit scores above the model on half of the prompts, give or take {epsilon:g}",
        statistic=wins / n,
        p=p,
        alpha=alpha,
        rejected=p < alpha,
    )


def independence(
    complement: Scores, full: Scores, setting: Setting, *, permutations: int = 1000, alpha: float = 0.05, seed: int = 0
) -> Tested:
    """Whether the model without the circuit still tells which prompts the model does well on."""
    ours, theirs = _kernel(complement), _kernel(full)
    generator = torch.Generator().manual_seed(seed)
    observed = hsic(ours, theirs)
    orders = (torch.randperm(len(theirs), generator=generator) for _ in range(permutations))
    above = sum(bool(hsic(ours, theirs[order][:, order]) >= observed - 1e-12) for order in orders)
    p = (1 + above) / (1 + permutations)
    return Tested(
        setting=setting,
        hypothesis="the scores of the model without the circuit are independent of the model's",
        statistic=float(observed),
        p=p,
        alpha=alpha,
        rejected=p < alpha,
    )


def redundancy(
    changes: dict[str, float],
    inflated: Float[Tensor, " draw"],
    setting: Setting,
    *,
    q: float = 0.9,
    alpha: float = 0.05,
) -> Redundancy:
    """The minimality test. `changes`: d(v, C) by node; `inflated`: d(u, C + u) of random u, may be empty: no test."""
    n = len(inflated)
    p = {}
    for name, change in changes.items():
        larger = int((change > inflated).sum())
        p[name] = tail(n, q, lambda k, larger=larger: k <= larger) if n else 1.0  # type: ignore[misc]
    redundant = [name for name, value in p.items() if value < alpha / len(p)]
    return Redundancy(
        setting=setting, quantile=q, alpha=alpha, p=p, redundant=redundant, inflated=[float(each) for each in inflated]
    )


def hsic(ours: Float[Tensor, "prompt prompt"], theirs: Float[Tensor, "prompt prompt"]) -> Float[Tensor, ""]:
    """`trace(K H L H) / (n - 1)^2` of kernels that are centred already (Gretton et al. 2007)."""
    return (ours * theirs).sum() / max(len(ours) - 1, 1) ** 2


def tail(n: int, p: float, counts: Callable[[int], bool]) -> float:
    """How likely a binomial count of n is one that `counts` holds of."""
    log_p, log_q = math.log(p), math.log1p(-p)
    ways = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1))
    return min(1.0, sum(math.exp(w + k * log_p + (n - k) * log_q) for k, w in enumerate(ways) if counts(k)))


def _kernel(x: Scores) -> Float[Tensor, "prompt prompt"]:
    """A Gaussian kernel of median bandwidth, centred."""
    distance = (x.double()[:, None] - x.double()[None]).abs()
    apart = distance[distance > 0]
    width = apart.median() if len(apart) else torch.tensor(1.0)
    kernel = (-((distance / width) ** 2) / 2).exp()
    return kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
