"""An attribution graph: nodes, the direct effect of each on each, and what the graph leaves out.

Nodes come in circuit-tracer's order: features by layer, position and number; errors, layer by layer; tokens; targets.
The effect of a source on a target is `adjacency[target, source]`: the source's share in the target's pre-activation, or
logit, so that a row and its constant sum to that value.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph:
    """The graph of one prompt. Raises DataError when its parts do not fit together."""

    adjacency: Float[Tensor, "node node"]  # [target, source]
    features: Int[Tensor, "feature 3"]  # layer, position, number
    activations: Float[Tensor, " feature"]
    layers: int
    tokens: tuple[int, ...]
    words: tuple[str, ...]  # the tokens as text
    targets: tuple[int, ...]  # token ids
    labels: tuple[str, ...]  # of targets, as text
    weights: Float[Tensor, " target"]  # where influence starts
    logits: Float[Tensor, " target"]  # what each target's row sums to
    constants: Float[Tensor, " node"]  # share of biases in each feature and target; 0 for sources
    rest: Float[Tensor, " node"]  # share of active features that are no nodes, where there was a budget
    prompt: str = ""
    model: str = ""
    scan: str = ""  # what Neuronpedia calls the model
    active: int = 0  # features that were active, nodes or not

    def __post_init__(self) -> None:
        nodes = self.target_nodes.stop
        for name, size in {"adjacency": (nodes, nodes), "constants": (nodes,), "rest": (nodes,)}.items():
            shape = tuple(getattr(self, name).shape)
            if shape != size:
                raise DataError(f"the graph's {name} is {shape}; its nodes ask for {size}", "make the graph again")

    def __len__(self) -> int:
        """How many nodes there are."""
        return len(self.adjacency)

    @property
    def feature_nodes(self) -> slice:
        return slice(0, len(self.features))

    @property
    def error_nodes(self) -> slice:
        start = len(self.features)
        return slice(start, start + self.layers * len(self.tokens))

    @property
    def token_nodes(self) -> slice:
        start = self.error_nodes.stop
        return slice(start, start + len(self.tokens))

    @property
    def target_nodes(self) -> slice:
        start = self.token_nodes.stop
        return slice(start, start + len(self.targets))

    @property
    def start(self) -> Float[Tensor, " node"]:
        """Where influence starts: the weights of the targets."""
        found = torch.zeros(len(self))
        found[self.target_nodes] = self.weights
        return found

    @property
    def places(self) -> Int[Tensor, "node 2"]:
        """Layer and position: a token's layer is -1, a target's one past the last; targets are at the last position."""
        size = len(self.tokens)
        errors = torch.cartesian_prod(torch.arange(self.layers), torch.arange(size)).view(-1, 2)
        tokens = torch.stack([torch.full((size,), -1), torch.arange(size)], 1)
        targets = torch.tensor([[self.layers, size - 1]]).expand(len(self.targets), -1)
        return torch.cat([self.features[:, :2], errors, tokens, targets])

    @property
    def values(self) -> Float[Tensor, " node"]:
        """What the rows of features and targets sum to, with their constants and the rest; 0 for sources."""
        found = torch.zeros(len(self))
        found[self.feature_nodes], found[self.target_nodes] = self.activations, self.logits
        return found

    def name(self, node: int) -> str:
        """A node in words: "3.17@5" is feature 17 of layer 3 at position 5."""
        if node < self.error_nodes.start:
            layer, position, number = self.features[node].tolist()
            return f"{layer}.{number}@{position}"
        if node < self.token_nodes.start:
            layer, position = divmod(node - self.error_nodes.start, len(self.tokens))
            return f"{layer}.error@{position}"
        if node < self.target_nodes.start:
            position = node - self.token_nodes.start
            return f"token {self.words[position]!r}@{position}"
        return f"logit {self.labels[node - self.target_nodes.start]!r}"
