"""The local replacement model of one prompt (Ameisen et al. 2025), made of a stock model by hooks alone.

Its attention patterns and the denominators of its norms are held at what the prompt gave them, each MLP is replaced by
its transcoder, and what the transcoders leave out is added as an error. Everything between an active feature and what
reads it is then linear, and at the prompt itself the logits are the model's own, to the last bit.

What is held is recorded in one plain pass. A later pass is given the values of the sources (embeddings, and what each
MLP adds); queries and keys are put back as they were, so that no gradient and no change passes through a pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subcircuit.errors import DataError, UnsupportedModel
from subcircuit.features.transcoders import Decoding, Transcoders
from subcircuit.graphs.norms import FrozenNorm
from subcircuit.graphs.places import Change, Place, changing, norm_places, read_places, write_places
from subcircuit.layout import Edit
from subcircuit.sites import Kind, Site
from subcircuit.subject import Prompts, Subject

__all__ = ["LocalReplacement", "Run", "check_fit"]

START = Site(0, Kind.RESID)
Stream = Float[Tensor, "copy pos width"]


@dataclass(frozen=True)
class Run:
    """One pass with everything held."""

    embeddings: Stream
    outputs: list[Stream]  # what each layer's MLP adds, as it was given
    reads: list[Stream]  # what each layer's transcoder takes in
    hidden: Stream  # what is unembedded
    logits: Float[Tensor, "copy vocab"]


class LocalReplacement:
    """A prompt's own linear model.

    Args:
        prompt: one row without padding.
        skip: tokens at the start whose features are left to the errors; a first token's activations are unlike all
            others, and transcoders are rarely trained on them.

    Raises:
        UnsupportedModel: an encoder, or a norm that is not known.
        DataError: transcoders of other layers or another width, more than one prompt.
    """

    def __init__(self, subject: Subject, transcoders: Transcoders, prompt: Prompts, *, skip: int = 1) -> None:
        check_fit(subject, transcoders)
        if len(prompt) != 1 or not bool(prompt.mask.all()):
            raise DataError(f"{len(prompt)} prompts were given, and a graph is of one", "give one, without padding")
        self.subject, self.prompt = subject, prompt
        self.transcoders = transcoders.to(subject.device)
        self._reading = read_places(subject, transcoders.reads)
        self._writing = write_places(subject, transcoders.writes)
        self._record()
        self._encode(skip)

    @property
    def features(self) -> Int[Tensor, "feature 3"]:
        """Layer, position and number of every active feature, in this order."""
        return self._features

    def decoders(self, layer: int, into: int) -> Float[Tensor, "feature width"]:
        """What each active feature of a layer adds to the stream where it writes: its activation times its decoder."""
        of_layer = self._features[:, 0] == layer
        rows = self.transcoders.decoder(layer, into)[self._features[of_layer, 2]]
        return self.activations[of_layer, None] * rows

    def run(self, copies: int = 1) -> Run:
        """The prompt so many times over, with a gradient at every source."""
        sources = [self.embeddings, *self.outputs]
        given = [each.expand(copies, -1, -1).clone().requires_grad_() for each in sources]
        with torch.enable_grad():
            return self.held(given[0], given[1:])

    @torch.no_grad()
    def constants(self) -> Run:
        """What is read when no source gives anything: the share of biases."""
        nothing = torch.zeros_like(self.embeddings)[None]
        return self.held(nothing, [offset[None] for offset in self._offsets])

    @torch.no_grad()
    def _record(self) -> None:
        """One plain pass: what is to be held, what transcoders read, and what they should write."""
        subject, end = self.subject, self.subject.model.get_output_embeddings()
        inward: dict[Place, Tensor] = {}
        outward: dict[Place, Tensor] = {}
        norms = norm_places(subject, self.transcoders.writes)
        entries = [(Place(each.module, "in"), _kept(inward, each)) for each in norms]
        exits = [(each, _kept(outward, each)) for each in [*norms, *self._writing]]
        read: dict[Place, Tensor] = {}
        reads = [(each, _kept(read, each)) for each in self._reading]
        final = Place(end, "in")
        sites = [START, *subject.sites(Kind.Q, Kind.K)]
        with changing([*entries, *exits, *reads, (final, _kept(read, final))]):
            self.logits, seen = subject.record(self.prompt, sites)
        self._kept = {site: seen[site] for site in sites[1:]}
        self._norms = [(each, FrozenNorm.of(each.module, inward[each], outward[each])) for each in norms]
        self.embeddings, self.hidden = seen[START][0, :, 0], read[final]
        self.reads: list[Tensor] = [read[each] for each in self._reading]
        self.outputs: list[Tensor] = [outward[each] for each in self._writing]

    @torch.no_grad()
    def _encode(self, skip: int) -> None:
        """Active features, what of each MLP's output they leave out, and what comes of no feature at all."""
        found, values, errors, self._offsets = [], [], [], []
        decoding = Decoding(self.transcoders)
        for layer, (x, y) in enumerate(zip(self.reads, self.outputs, strict=True)):
            transcoder = self.transcoders[layer]
            features = transcoder.encode(x)
            features[:skip] = 0
            place = features.nonzero()
            found.append(torch.cat([torch.full_like(place[:, :1], layer), place], 1))
            values.append(features[place[:, 0], place[:, 1]])
            errors.append(y - decoding(layer, features, x).to(y.dtype))
            self._offsets.append(transcoder.decode(torch.zeros_like(features), x).to(y.dtype))
        self._features, self.activations = torch.cat(found), torch.cat(values)
        self.errors: Float[Tensor, "layer pos width"] = torch.stack(errors)

    def held(self, embeddings: Stream, outputs: Sequence[Stream]) -> Run:
        """Run the model with these sources, and patterns and denominators as recorded."""
        seen: dict[Place, Tensor] = {}
        final = Place(self.subject.model.get_output_embeddings(), "in")
        changes = [each for place, norm in self._norms for each in _normed(place, norm)]
        for layer, (reading, writing) in enumerate(zip(self._reading, self._writing, strict=True)):
            changes += [(reading, _seen(seen, reading)), *self._cut(layer)]
            changes.append((writing, self._written(layer, outputs[layer], seen)))
        edits: dict[Site, Edit] = {START: lambda act: embeddings[:, :, None]}
        edits |= {site: _constant(value) for site, value in self._kept.items()}
        with changing([*changes, (final, _seen(seen, final))]), self.subject.editing(edits):
            logits = self.subject.logits(self._copies(len(embeddings)))
        return Run(embeddings, list(outputs), [seen[each] for each in self._reading], seen[final], logits)

    def _cut(self, layer: int) -> list[tuple[Place, Change]]:
        """The MLP itself computes nothing that is used: no gradient is kept for it."""
        place = self._reading[layer]
        if not self.subject.family.pre_norms:
            return [(place, Tensor.detach)]
        return [(Place(place.module, "out"), Tensor.detach)]  # the norm before the MLP, which nothing else reads

    def _written(self, layer: int, given: Stream, seen: dict[Place, Tensor]) -> Change:
        skip = self.transcoders[layer].skip
        if skip is None:
            return lambda output: given

        def change(output: Tensor) -> Tensor:
            return given + (seen[self._reading[layer]] - self.reads[layer]) @ skip.to(given.dtype).T

        return change

    def _copies(self, count: int) -> Prompts:
        one = self.prompt
        return Prompts(one.ids.expand(count, -1), one.mask.expand(count, -1), one.at.expand(count))


def check_fit(subject: Subject, transcoders: Transcoders) -> None:
    """Raise DataError for transcoders of another model, UnsupportedModel for an encoder."""
    if not subject.family.causal:
        raise UnsupportedModel(f"{subject.name} is an encoder", "attribution graphs are of models that predict a token")
    width = subject.width(Kind.RESID)
    if len(transcoders) != len(subject) or transcoders[0].width != width:
        raise DataError(
            f"the transcoders are of {len(transcoders)} layers and width {transcoders[0].width}; {subject.name} has "
            f"{len(subject)} layers of width {width}",
            f"they were made for '{transcoders.model or 'an unnamed model'}'",
        )


def _kept(where: dict[Place, Tensor], place: Place) -> Change:
    def change(act: Tensor) -> Tensor:
        where[place] = act.detach()[0]
        return act

    return change


def _seen(where: dict[Place, Tensor], place: Place) -> Change:
    def change(act: Tensor) -> Tensor:
        where[place] = act
        return act

    return change


def _normed(place: Place, norm: FrozenNorm) -> list[tuple[Place, Change]]:
    taken: list[Tensor] = []

    def enter(act: Tensor) -> Tensor:
        taken[:] = [act]
        return act

    return [(Place(place.module, "in"), enter), (place, lambda output: norm(taken.pop()))]


def _constant(value: Tensor) -> Edit:
    return lambda act: value.expand_as(act)
