"""The attribution graph of a prompt, exact on its local replacement model (Ameisen et al. 2025).

The effect of source s on target t is `a_s * d_s . J . e_t`: the source's activation and decoder, the Jacobian of the
stream with everything held, and the target's encoder, summed over the layers that s writes to. One backward pass gives
a target's whole row; many rows go together, one per copy of the prompt. Where features are more than the budget, they
are taken by their influence on the targets, as far as the rows found so far tell it.

Departs from circuit-tracer: what enters the first layer, position embeddings included, is the token's node; constants
and the features over budget are kept as two numbers per row, so that every row sums to its pre-activation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError, UsageError
from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.influence import TINY
from subcircuit.graphs.replacement import LocalReplacement
from subcircuit.graphs.rows import Rows
from subcircuit.graphs.targets import Targets, difference, likeliest, words
from subcircuit.progress import Progress, silent
from subcircuit.subject import Prompts, Subject

__all__ = ["Attribution", "Cost", "encoded"]

UPDATE = 4  # batches of features between two looks at what matters most


@dataclass(frozen=True)
class Cost:
    """What a graph will take, as far as its first rows tell."""

    active: int  # features
    rows: int  # features that become nodes
    seconds: float  # at the pace of the targets' rows, whose backward pass is the longest
    bytes: int  # of all rows


@dataclass(frozen=True)
class Attribution:
    """How a graph is made. Raises UsageError for settings out of range."""

    probability: Annotated[float, "explain the fewest logits with this probability"] = 0.95
    max_logits: Annotated[int, "explain so many logits at most"] = 10
    max_features: Annotated[int, "features that become nodes, the most influential first"] = 7500
    batch_size: Annotated[int, "copies of the prompt in a backward pass"] = 32
    skip: Annotated[int, "tokens at the start whose features are left to the errors"] = 1

    def __post_init__(self) -> None:
        for name, least in {"max_features": 1, "batch_size": 1, "skip": 0}.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}", f"give {least} or more")

    def graph(
        self,
        subject: Subject,
        transcoders: Transcoders,
        prompt: str | Prompts,
        *,
        between: tuple[Sequence[int], Sequence[int]] | None = None,
        approve: Callable[[Cost], None] = lambda cost: None,
        progress: Progress = silent,
    ) -> Graph:
        """The graph of a prompt's likeliest logits, or of the logit difference `between` right and wrong tokens.

        `approve` is told the cost once it is known, and may raise to stop there. Raises UnsupportedModel, DataError.
        """
        given = encoded(subject, prompt) if isinstance(prompt, str) else prompt
        local = LocalReplacement(subject, transcoders, given, skip=self.skip)
        if not len(local.features):
            raise DataError(
                f"no feature of {transcoders.features} is active in this prompt", "the transcoders are dead, or others"
            )
        targets = (
            difference(subject, *between)
            if between
            else likeliest(subject, local.logits[0], probability=self.probability, most=self.max_logits)
        )
        search = _Search(local, targets, self.batch_size)
        budget = min(self.max_features, len(local.features))
        approve(search.cost(budget))
        search.fill(budget, progress)
        return search.graph(prompt if isinstance(prompt, str) else "".join(words(subject, given.ids[0].tolist())))


def encoded(subject: Subject, text: str) -> Prompts:
    """One prompt as its tokenizer writes it. Raises DataError for fewer than two tokens."""
    ids = torch.tensor([subject.tokenizer(text).input_ids], dtype=torch.long)
    if ids.shape[1] < 2:
        raise DataError(f"the prompt {text!r} is {ids.shape[1]} tokens long", "give two tokens or more")
    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([ids.shape[1] - 1]))


class _Search:
    """Rows as they are found: the targets' first."""

    def __init__(self, local: LocalReplacement, targets: Targets, batch: int) -> None:
        self.local, self.targets, self.batch = local, targets, batch
        self.rows = Rows(local, min(batch, max(len(targets), len(local.features))))
        began = perf_counter()
        parts = [self.rows.of_hidden(part) for part in targets.vectors.split(self.rows.copies)]
        self.pace = (perf_counter() - began) / len(parts)
        self.table = torch.cat(parts)  # rows, the first of which are found
        self.order = torch.zeros(0, dtype=torch.long)  # features whose rows are found

    def cost(self, budget: int) -> Cost:
        rows = budget + len(self.targets)
        size = 4 * (rows * self.rows.columns + (rows + self.rows.columns - len(self.local.features)) ** 2)
        return Cost(len(self.local.features), budget, self.pace * -(-budget // self.rows.copies), size)

    def fill(self, budget: int, progress: Progress) -> None:
        """Find the rows of so many features."""
        count = len(self.targets)
        self.table = torch.cat([self.table, torch.zeros(budget, self.rows.columns)])
        while len(self.order) < budget:
            every = len(self.local.features) == budget
            chosen = torch.arange(budget) if every else self._next(budget)
            layers = self.local.features[chosen, 0].cpu()
            for part in chosen[layers.argsort(descending=True, stable=True)].split(self.rows.copies):
                start = count + len(self.order)
                self.table[start : start + len(part)] = self.rows.of_features(part)
                self.order = torch.cat([self.order, part])
                progress("attribution", len(self.order), budget)

    def graph(self, prompt: str) -> Graph:
        """Rows and columns in the order of nodes; features over budget are summed up."""
        local, rows, order = self.local, self.rows, self.order.argsort()
        chosen, active, count = self.order[order], len(local.features), len(self.targets)
        sources = torch.cat([chosen, torch.arange(active, rows.columns)])
        nodes = len(sources) + count
        place = torch.cat([torch.arange(len(chosen)), torch.arange(nodes - count, nodes)])
        by_node = torch.cat([self.table[count:][order], self.table[:count]])
        adjacency, rest, constants = torch.zeros(nodes, nodes), torch.zeros(nodes), torch.zeros(nodes)
        adjacency[place, : len(sources)] = by_node[:, sources]
        left = torch.ones(rows.columns, dtype=torch.bool).index_fill(0, sources, False)
        rest[place] = by_node[:, left].sum(1)
        constants[place] = torch.cat([rows.constants(chosen), rows.hidden_constants(self.targets)])
        tokens = local.prompt.ids[0].tolist()
        hidden = local.hidden[int(local.prompt.at[0])].float()
        return Graph(
            adjacency=adjacency,
            features=local.features[chosen].cpu(),
            activations=local.activations[chosen].float().cpu(),
            layers=len(local.subject),
            tokens=tuple(tokens),
            words=words(local.subject, tokens),
            targets=self.targets.tokens,
            labels=self.targets.labels,
            weights=self.targets.weights.cpu(),
            logits=(self.targets.vectors @ hidden + self.targets.offsets).cpu(),
            constants=constants,
            rest=rest,
            prompt=prompt,
            model=local.subject.name,
            scan=local.transcoders.scan,
            active=active,
        )

    def _next(self, budget: int) -> Int[Tensor, " chosen"]:
        """The features with most influence among those without a row."""
        seen = self._influence().index_fill(0, self.order, -1.0)
        return seen.topk(min(UPDATE * self.rows.copies, budget - len(self.order))).indices

    def _influence(self) -> Float[Tensor, " feature"]:
        """On the targets, over the paths whose rows are found; it ends after as many steps as there are layers."""
        shares = self.table[: len(self.targets) + len(self.order)].abs()
        shares /= shares.sum(1, keepdim=True).clamp(min=TINY)
        step = torch.cat([self.targets.weights.cpu(), torch.zeros(len(self.order))])
        total = torch.zeros(shares.shape[1])
        while step.any():
            found = step @ shares
            total += found
            step = torch.cat([torch.zeros(len(self.targets)), found[self.order]])
        return total[: len(self.local.features)]
