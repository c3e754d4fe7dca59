"""Who writes each concept: the heads and neurons that put more of its direction into its own states than into others.

    share(node, k) = W_node (a_k - a) . v_k,    summing over embedding, heads and neurons to (h_k - h) . v_k

`a_k` is the node's mean activation over examples of concept k, `a` the mean over all concepts by their sizes, `h` the
states and `v_k` the direction. What all states have alike, biases among it, cancels out.
"""

from collections import defaultdict
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from subcircuit.batching import batched
from subcircuit.concepts.beside import Measured
from subcircuit.concepts.framing import Framed
from subcircuit.concepts.reading import require_same
from subcircuit.concepts.study import Study
from subcircuit.concepts.texts import Corpus
from subcircuit.concepts.writers import require_sums
from subcircuit.errors import NumericalError, UnsupportedModel
from subcircuit.progress import Progress, silent
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Subject

__all__ = ["Writing", "Written", "write"]

Means = dict[Site, Float[Tensor, "code unit channel"]]
BATCH = 8  # texts in a pass


class Written(BaseModel):
    """One concept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int
    examples: int = Field(description="states that it is a mean of")
    whole: float = Field(description="how much farther along the direction they lie than all states do")
    embedding: float = Field(description="the part of it that the embedding brings")
    heads: dict[str, float] = Field(description="parts of it, the largest by magnitude first")
    neurons: dict[str, float]


class Writing(Measured):
    """`writers.json`."""

    FILE: ClassVar[str] = "writers.json"
    CURE: ClassVar[str] = "fit the codebook again, or remove the file"

    note: str = Field(default="", description="why there are none")
    concepts: list[Written] = Field(description="by code")


def write(
    subject: Subject, study: Study, corpus: Corpus, *, heads: int = 8, neurons: int = 12, progress: Progress = silent
) -> Writing:
    """So many heads and neurons of each concept, over the examples in its catalogue; `corpus` was harvested.

    Of a family whose shares do not sum there are none, with a note. Raises DataError for another model's codebook,
    NumericalError.
    """
    require_same(subject, study.book)
    digest = study.book.digest
    try:
        require_sums(subject)
    except UnsupportedModel as error:
        return Writing(codebook=digest, note=error.message, concepts=[])
    layer = study.book.about.layer
    sites = {kind: [Site(at, kind) for at in range(layer)] for kind in (Kind.HEAD, Kind.NEURON)}
    ends = (Site(layer, Kind.RESID), Site(0, Kind.RESID))
    every = list(dict.fromkeys([*ends, *sites[Kind.HEAD], *sites[Kind.NEURON]]))
    apart = _apart(_means(subject, study, corpus, every, progress), study)
    directions = study.book.direction(torch.arange(len(study.book)))
    shares = {kind: _shares(subject, apart, sites[kind], directions) for kind in sites}
    whole, embedding = (torch.einsum("kd,kd->k", apart[site][:, 0], directions) for site in ends)
    if not all(bool(each.isfinite().all()) for each in (whole, *shares.values())):
        raise NumericalError(f"an activation below layer {layer} is not finite", "use float32 weights, or --no-writers")
    tops = {kind: _top(shares[kind], sites[kind], n) for kind, n in ((Kind.HEAD, heads), (Kind.NEURON, neurons))}
    found = [
        Written(
            code=code,
            examples=len(concept.examples),
            whole=float(whole[code]),
            embedding=float(embedding[code]),
            heads=tops[Kind.HEAD][code],
            neurons=tops[Kind.NEURON][code],
        )
        for code, concept in enumerate(study.catalogue.concepts)
    ]
    return Writing(codebook=digest, concepts=found)


def _means(subject: Subject, study: Study, corpus: Corpus, sites: list[Site], progress: Progress) -> Means:
    """The mean activation at each site over the examples of each concept."""
    spots: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of each text, codes and positions
    for concept in study.catalogue.concepts:
        for example in concept.examples:
            spots[example.text].append((concept.code, example.position))
    texts = sorted(spots)
    framed: Framed = study.catalogue.frame.around([corpus.texts[text] for text in texts], subject.tokenizer)
    sums: Means = {}
    done = 0

    def add(rows: Tensor) -> None:
        nonlocal done
        found = [(at, *spot) for at, row in enumerate(rows.tolist()) for spot in spots[texts[row]]]
        at, codes, positions = torch.tensor(found).T
        _, seen = subject.record(framed.rows(rows).prompts, sites)
        for site, act in seen.items():
            mine = act[at, positions].float().cpu()
            sums.setdefault(site, torch.zeros(len(study.book), *mine.shape[1:])).index_add_(0, codes, mine)
        done += len(rows)
        progress("writers", done, len(texts))

    batched(add, framed.prompts.lengths, BATCH)
    counts = torch.tensor([len(concept.examples) for concept in study.catalogue.concepts])
    return {site: total / counts[:, None, None] for site, total in sums.items()}


def _apart(means: Means, study: Study) -> Means:
    """Less the mean over all concepts, each by its share of the states."""
    weights = study.book.counts / study.book.counts.sum()
    return {site: mean - torch.einsum("k,kuc->uc", weights, mean) for site, mean in means.items()}


def _shares(
    subject: Subject, apart: Means, sites: list[Site], directions: Float[Tensor, "code width"]
) -> Float[Tensor, "code node"]:
    """What the units of these sites write along each concept's direction, site after site."""
    parts = [torch.zeros(len(directions), 0)]
    for site in sites:
        weight = subject.layout.weight(site).float().cpu()
        parts.append(torch.einsum("kuc,ucd,kd->ku", apart[site], weight, directions))
    return torch.cat(parts, 1)


def _top(shares: Float[Tensor, "code node"], sites: list[Site], n: int) -> list[dict[str, float]]:
    """The largest by magnitude, with their names."""
    if not sites:
        return [{} for _ in shares]
    units = shares.shape[1] // len(sites)
    best = shares.abs().topk(min(n, shares.shape[1]), dim=1).indices
    return [
        {str(Node(sites[at // units], at % units)): float(row[at]) for at in chosen.tolist()}
        for row, chosen in zip(shares, best, strict=True)
    ]
