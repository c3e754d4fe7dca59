"""A codebook that follows its members by exponential moving averages (van den Oord et al. 2017, appendix A).

    N_k <- g N_k + (1 - g) n_k,    m_k <- g m_k + (1 - g) sum of z in k,    e_k <- m_k / N~_k
    N~_k = (N_k + eps) / (sum N + K eps) * sum N

In training a vector goes to one of its `top` nearest codes, drawn with softmax(-d^2 / (t s)), `s` the batch's median
squared distance to the nearest code, so that the temperature `t` means the same at every scale; `t` 0 is the nearest.
Codes that hardly anything comes to begin anew at a vector of the batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Quantiser", "squared_distances"]


def squared_distances(z: Float[Tensor, "row width"], codes: Float[Tensor, "code width"]) -> Float[Tensor, "row code"]:
    """Of every row to every code."""
    return (z.square().sum(1, keepdim=True) - 2 * z @ codes.T + codes.square().sum(1)).clamp(min=0)


@dataclass
class Quantiser:
    """Codes in training, and the averages behind them."""

    codes: Float[Tensor, "code width"]
    decay: float = 0.99
    eps: float = 1e-5
    write_back: bool = False  # keep the smoothed counts in the place of the counts themselves, as CLVQ-VAE's code does
    least: float = 0.0  # a code whose count falls below this share of an even one's begins anew

    def __post_init__(self) -> None:
        self.counts = torch.ones(len(self.codes))
        self.sums = self.codes.clone()

    def assign(
        self,
        z: Float[Tensor, "row width"],
        *,
        top: int = 1,
        temperature: float = 0.0,
        scaled: bool = True,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, " row"]:
        """A code for each row, drawn as above; `scaled` False takes the temperature as it is."""
        squared = squared_distances(z, self.codes)
        near = squared.topk(min(top, len(self.codes)), largest=False)
        if temperature == 0 or near.indices.shape[1] == 1:
            return near.indices[:, 0]
        scale = float(near.values[:, 0].median()) if scaled else 1.0
        odds = (-near.values / (temperature * max(scale, torch.finfo(z.dtype).tiny))).softmax(-1)
        drawn = odds.multinomial(1, generator=generator)
        return near.indices.gather(1, drawn)[:, 0]

    @torch.no_grad()
    def update(self, z: Float[Tensor, "row width"], assigned: Int[Tensor, " row"]) -> None:
        """One step of the averages."""
        n = torch.bincount(assigned, minlength=len(self.codes)).to(z.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, assigned, z)
        self.counts = self.decay * self.counts + (1 - self.decay) * n
        self.sums = self.decay * self.sums + (1 - self.decay) * sums
        total = self.counts.sum()
        smooth = (self.counts + self.eps) / (total + len(self.codes) * self.eps) * total
        self.counts = smooth if self.write_back else self.counts
        self.codes = self.sums / smooth[:, None]

    @torch.no_grad()
    def revive(self, z: Float[Tensor, "row width"], generator: torch.Generator) -> int:
        """Let dead codes begin anew at random rows of `z`; how many did."""
        dead = (self.counts < self.least * self.counts.sum() / len(self.codes)).nonzero()[:, 0]
        dead = dead[: len(z)]
        if len(dead):
            chosen = torch.randperm(len(z), generator=generator)[: len(dead)]
            even = self.counts.sum() / len(self.codes)
            self.codes = self.codes.index_copy(0, dead, z[chosen])
            self.sums = self.sums.index_copy(0, dead, z[chosen] * even)
            self.counts = self.counts.index_fill(0, dead, float(even))
        return len(dead)
