"""Rows of an attribution graph: the direct effects of all sources on some targets, by one backward pass for many."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.graphs.replacement import LocalReplacement
from subcircuit.graphs.targets import Targets

__all__ = ["Rows"]

Found = Float[Tensor, "target source"]


class Rows:
    """Of one prompt, `copies` of which are held with their gradients.

    Columns are all active features by layer, position and number, then errors, layer by layer, then tokens.
    """

    def __init__(self, local: LocalReplacement, copies: int) -> None:
        self.local, self.copies = local, copies
        self._run = local.run(copies)
        self._constant = local.constants()
        size, self._layers = len(local.prompt.ids[0]), len(local.subject)
        self._size = size
        self._decoders = {
            (layer, into): local.decoders(layer, into).to(local.embeddings.dtype)
            for layer in range(self._layers)
            for into in local.transcoders.reach(layer)
        }
        places = local.features[:, 0] * size + local.features[:, 1]
        counts = torch.bincount(places, minlength=self._layers * size).view(self._layers, size)
        self._counts = counts.tolist()
        self._starts = [0, *counts.sum(1).cumsum(0).tolist()]
        self.columns = len(local.features) + self._layers * size + size

    def of_hidden(self, vectors: Float[Tensor, "target width"]) -> Found:
        """Rows of directions of the stream that is unembedded, at the judged position."""
        at = self.local.prompt.at.expand(len(vectors))
        seed = self._seed(self._run.hidden, torch.arange(len(vectors)), at, vectors)
        return self._back([self._run.hidden], [seed], self._layers, len(vectors))

    def of_features(self, features: Int[Tensor, " target"]) -> Found:
        """Rows of active features, by their numbers among them."""
        layers, positions, numbers = self.local.features[features].unbind(1)
        reads, seeds = [], []
        for layer in layers.unique().tolist():
            rows = (layers == layer).nonzero()[:, 0]
            vectors = self.local.transcoders[layer].encoder[numbers[rows]]
            reads.append(self._run.reads[layer])
            seeds.append(self._seed(reads[-1], rows, positions[rows], vectors))
        return self._back(reads, seeds, int(layers.max()), len(features))

    def constants(self, features: Int[Tensor, " target"]) -> Float[Tensor, " target"]:
        """What biases alone give to each active feature."""
        found = torch.zeros(len(features))
        layers, positions, numbers = self.local.features[features].unbind(1)
        for layer in layers.unique().tolist():
            rows, transcoder = (layers == layer).nonzero()[:, 0], self.local.transcoders[layer]
            read = self._constant.reads[layer][0, positions[rows]].float()
            values = (read * transcoder.encoder[numbers[rows]]).sum(1) + transcoder.encoder_bias[numbers[rows]]
            found[rows.cpu()] = values.cpu()
        return found

    def hidden_constants(self, targets: Targets) -> Float[Tensor, " target"]:
        """What biases alone give to each target."""
        hidden = self._constant.hidden[0, int(self.local.prompt.at[0])].float()
        return (targets.vectors @ hidden + targets.offsets).cpu()

    def _seed(self, read: Tensor, rows: Tensor, positions: Tensor, vectors: Tensor) -> Tensor:
        seed = torch.zeros_like(read)
        seed[rows.to(read.device), positions.to(read.device)] = vectors.to(read.dtype)
        return seed

    def _back(self, reads: Sequence[Tensor], seeds: Sequence[Tensor], below: int, count: int) -> Found:
        """Gradients at all sources below a layer, times what the sources give."""
        sources = [self._run.embeddings, *self._run.outputs[:below]]
        at = torch.autograd.grad(reads, sources, seeds, retain_graph=True, materialize_grads=True)
        found = torch.zeros(count, self.columns)
        errors = len(self.local.features)
        for layer in range(below):
            place = slice(errors + layer * self._size, errors + (layer + 1) * self._size)
            found[:, place] = torch.einsum("cpw,pw->cp", at[1 + layer][:count], self.local.errors[layer]).float().cpu()
            for into in self.local.transcoders.reach(layer)[: below - layer]:
                self._add(found, layer, into, at[1 + into][:count])
        tokens = torch.einsum("cpw,pw->cp", at[0][:count], self.local.embeddings)
        found[:, -self._size :] = tokens.float().cpu()
        return found

    def _add(self, found: Found, layer: int, into: int, gradient: Float[Tensor, "target pos width"]) -> None:
        """The effects of a layer's features by way of what they write to one layer."""
        start = self._starts[layer]
        for position, block in enumerate(self._decoders[layer, into].split(self._counts[layer])):
            if len(block):
                found[:, start : start + len(block)] += (gradient[:, position] @ block.T).float().cpu()
                start += len(block)
