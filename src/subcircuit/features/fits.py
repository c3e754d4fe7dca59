"""How well a dictionary fits activations: here and at other places, as it is and read otherwise.

Everything is summed up chunk by chunk over the same text. A *reading* is the dictionary computed otherwise than its
folder says: another activation, the bias taken off the input or not, inputs normalised as makers do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.features.dictionary import Dictionary
from subcircuit.features.documents import Documents
from subcircuit.features.harvest import record_rows
from subcircuit.sites import ONE_UNIT, Kind, Site
from subcircuit.subject import Subject

__all__ = ["Fit", "Place", "Reading", "fits", "neighbours", "readings"]

PART = 64  # windows that are recorded at a time
Batch = Float[Tensor, "row width"]
Normalise = Callable[[Batch], tuple[Tensor, Tensor]]  # the shift and the scale of each row
Place = tuple[Site, Site]  # where a dictionary reads and writes; of an autoencoder the same


@dataclass
class Fit:
    """Running sums over rows."""

    features: int
    rows: int = 0
    on: int = 0
    left: float = 0.0  # squared error
    norms: float = 0.0
    fired: Tensor | None = None
    sums: Tensor | None = None
    squares: float = 0.0

    def add(self, features: Tensor, x: Batch, y: Batch, found: Batch) -> None:
        self.rows += len(x)
        self.on += int((features > 0).sum())
        self.left += float((y - found).double().square().sum())
        self.norms += float(x.double().norm(dim=1).sum())
        fired = (features > 0).any(0)
        self.fired = fired if self.fired is None else self.fired | fired
        total = y.double().sum(0)
        self.sums = total if self.sums is None else self.sums + total
        self.squares += float(y.double().square().sum())

    def measured(self) -> dict[str, float]:
        """FVU, features on at a time, share of features never on, mean norm of the input: see `Dictionary.expected`."""
        assert self.sums is not None and self.fired is not None
        variance = max(self.squares - float(self.sums.square().sum()) / self.rows, 1e-300)
        return {
            "fvu": self.left / variance,
            "l0": self.on / self.rows,
            "dead": 1 - float(self.fired.double().mean()),
            "norm": self.norms / self.rows,
        }


@dataclass(frozen=True)
class Reading:
    """A dictionary, and what is done to its input before and undone after."""

    dictionary: Dictionary
    part: str = ""  # what it changes: activation or normalisation
    words: str = ""
    normalise: Normalise | None = None

    def __call__(self, x: Batch) -> tuple[Tensor, Batch]:
        """Features, and what they stand for."""
        if self.normalise is None:
            features = self.dictionary.encode(x)
            return features, self.dictionary.decode(features, x)
        shift, scale = self.normalise(x)
        inputs = (x - shift) * scale
        features = self.dictionary.encode(inputs)
        return features, self.dictionary.decode(features, inputs) / scale + shift


@torch.no_grad()
def fits(
    subject: Subject,
    documents: Documents,
    tried: Mapping[str, tuple[Place, Reading]],
    *,
    skip: int = 1,
    batch: int = 32,
) -> dict[str, dict[str, float]]:
    """What each place and reading comes to on the same text."""
    sites = list(dict.fromkeys(site for place, _ in tried.values() for site in place))
    sums = {name: Fit(len(reading.dictionary)) for name, (_, reading) in tried.items()}
    for start in range(0, len(documents), PART):
        lot = documents[slice(start, start + PART)]
        recorded = record_rows(subject, lot, sites, skip=skip, batch=batch)
        seen = {site: act.cpu() for site, act in recorded.items() if len(act)}
        for name, ((reads, writes), reading) in tried.items() if seen else []:
            features, found = reading(seen[reads])
            sums[name].add(features, seen[reads], seen[writes], found)
    return {name: fit.measured() for name, fit in sums.items()}


def neighbours(subject: Subject, place: Place) -> list[Place]:
    """Other places of the same width: the same hooks in all layers, and other hooks in the same layer."""
    reads, writes = place
    distance = writes.layer - reads.layer
    last = len(subject)
    found = [
        (Site(layer, reads.kind), Site(layer + distance, writes.kind))
        for layer in range(last + 1)
        if _there(subject, Site(layer, reads.kind)) and _there(subject, Site(layer + distance, writes.kind))
    ]
    layer = min(reads.layer, last - 1)
    sites = [Site(layer, kind) for kind in (Kind.RESID, Kind.MLP_IN, Kind.ATTN, Kind.MLP_OUT, Kind.HEAD)]
    near = [site for site in (*sites, Site(layer + 1, Kind.RESID)) if _there(subject, site)]
    near = [site for site in near if subject.width(site.kind) == subject.width(reads.kind)]
    found += [(site, site) if reads == writes else (site, writes) for site in near]
    return [each for each in dict.fromkeys(found) if each != place]


def readings(dictionary: Dictionary, x: Batch) -> list[Reading]:
    """The ways to read a dictionary besides its own. `x` tells what scale its input has."""
    found = [Reading(other, "activation", words) for other, words in _activations(dictionary, x)]
    if dictionary.width == dictionary.decoder.shape[1] and dictionary.reads == dictionary.writes:
        what = "without" if dictionary.centred else "with"
        flipped = replace(dictionary, centred=not dictionary.centred)
        found.append(Reading(flipped, "normalisation", f"{what} the decoder's bias taken off the input"))
        found += [Reading(dictionary, "normalisation", words, how) for words, how in _scales(dictionary, x).items()]
    return found


def _activations(dictionary: Dictionary, x: Batch) -> Sequence[tuple[Dictionary, str]]:
    plain = replace(dictionary, activation="relu", k=0, threshold=None)
    sizes = {1 << power for power in range(9)}
    if dictionary.activation == "topk":
        sizes |= {max(1, round(dictionary.k * by)) for by in (0.25, 0.5, 2, 4)}
        sizes -= {dictionary.k}
    usable = [k for k in sorted(sizes) if k <= len(dictionary) // 2]
    several = [(replace(plain, activation="topk", k=k), f"topk with k = {k}") for k in usable]
    if dictionary.activation != "relu":
        several.append((plain, "relu"))
    if dictionary.threshold is not None:
        factors = (0.25, 0.5, 2.0, 4.0)
        several += [
            (replace(dictionary, threshold=dictionary.threshold * by), f"thresholds {by:g} times") for by in factors
        ]
    return several


def _scales(dictionary: Dictionary, x: Batch) -> dict[str, Normalise]:
    """Normalisations that makers know: a mean norm of sqrt(width), each row's own, LayerNorm; and the bias's scale."""
    width = x.shape[1]
    usual = width**0.5 / x.norm(dim=1).mean()

    def each(rows: Batch) -> tuple[Tensor, Tensor]:
        return torch.zeros(1), width**0.5 / rows.norm(dim=1, keepdim=True)

    def layer_norm(rows: Batch) -> tuple[Tensor, Tensor]:
        return rows.mean(1, keepdim=True), 1 / (rows.std(1, unbiased=False, keepdim=True) + 1e-5)

    found: dict[str, Normalise] = {
        "inputs scaled to a mean norm of sqrt(width)": lambda rows: (torch.zeros(1), usual),
        "each input scaled to a norm of sqrt(width)": each,
        "inputs through LayerNorm": layer_norm,
    }
    own = dictionary.expected.get("norm")
    if own:
        ratio = own / x.norm(dim=1).mean()
        found["inputs scaled to the norm that its maker measured"] = lambda rows: (torch.zeros(1), ratio)
    return found


def _there(subject: Subject, site: Site) -> bool:
    taps = subject.family.taps
    if site == Site(len(subject), Kind.RESID):
        return bool(subject.family.final)
    known = site.kind in ONE_UNIT or site.kind in subject.layout.units
    return 0 <= site.layer < len(subject) and site.kind in taps and known
