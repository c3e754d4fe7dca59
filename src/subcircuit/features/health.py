"""Does a dictionary belong where it is about to be used? Measured on real activations, not read off its name.

The fraction of variance that it leaves unexplained is compared with what its maker measured (where that is not told,
with POOR), with what it leaves at other layers and hooks, and with what it leaves when it is read otherwise: another
activation or k, another normalisation. What fits far better names the fault. Encoder and decoder rows of an autoencoder
point the same way; where they do not, the decoder is not this encoder's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import torch

from subcircuit.errors import DataError
from subcircuit.features.dictionary import Dictionary
from subcircuit.features.documents import Documents
from subcircuit.features.fits import Place, Reading, fits, neighbours, readings
from subcircuit.features.harvest import record_rows
from subcircuit.features.placing import Placed
from subcircuit.sites import Site
from subcircuit.subject import Subject

__all__ = ["Finding", "Health", "check"]

POOR = 0.5  # FVU that no dictionary of use has, where its maker's own is not known
WORSE, SLACK = 1.5, 0.05  # FVU may be so many times the expected one, and so much more: other text is other text
FAR_BETTER = 0.6  # of this place's FVU: what another place or reading must stay below to be called the right one
OWN = 0.5  # share of features whose own decoder row is nearest to their encoder row, at least
MANY_DEAD = 0.3  # more dead features than the maker found, as a share of all, on enough rows
ENOUGH = 4  # rows a feature, before dead ones are counted against a dictionary
SCALE = 2.0  # the mean norm of the input, over or under what the maker measured
ON = 1.5  # the same for features on at a time


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, in words."""

    part: str  # model, layer, hook, activation, normalisation, decoder, fit or dead
    level: str  # error: its features should not be trusted; warning: look
    cause: str
    cure: str


@dataclass(frozen=True)
class Health:
    """What a dictionary does on a model's activations."""

    reads: Site
    writes: Site
    rows: int
    measured: Mapping[str, float]  # fvu, l0, dead, norm
    expected: Mapping[str, float]  # the same, as its maker measured; empty where that is not told
    others: Mapping[str, float]  # FVU of other places and readings, best first
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether there is no error."""
        return all(each.level != "error" for each in self.findings)


def check(
    dictionary: Dictionary,
    subject: Subject,
    documents: Documents,
    reads: Site | None = None,
    writes: Site | None = None,
    *,
    skip: int = 1,
    batch: int = 32,
) -> Health:
    """Measure a dictionary on a model's activations.

    Raises UsageError when neither its hooks nor `reads` say where, DataError for another width or text too short,
    NumericalError for activations that are no numbers.
    """
    at = Placed.of(dictionary, subject, reads, writes)
    place = (at.reads, at.writes)
    documents = documents[(documents.ids[:, skip:] >= 0).any(1)]
    if not len(documents):
        raise DataError(f"no window is longer than the {skip} tokens left out", "give longer texts")
    sample = record_rows(subject, documents[slice(0, 64)], [place[0]], skip=skip, batch=batch)[place[0]].cpu()
    own = Reading(dictionary)
    places = {_words(other): (other, own) for other in neighbours(subject, place)}
    others = {reading.words: (place, reading) for reading in readings(dictionary, sample)}
    found = fits(subject, documents, {"": (place, own), **places, **others}, skip=skip, batch=batch)
    here = found.pop("")
    rows = int((documents.ids[:, skip:] >= 0).sum())
    findings = [
        *_named(dictionary, subject),
        *_elsewhere(place, here, places, found),
        *_otherwise(here, others, found),
        *_unlike(dictionary, here),
        *_unaligned(dictionary, place),
        *_dead(dictionary, here, rows),
    ]
    ranked = dict(sorted(((name, each["fvu"]) for name, each in found.items()), key=lambda item: item[1]))
    return Health(*place, rows, here, dictionary.expected, ranked, tuple(findings))


def _named(dictionary: Dictionary, subject: Subject) -> list[Finding]:
    told, here = (PurePath(name).name.lower() for name in (dictionary.model, subject.name))
    if not told or told == here:
        return []
    return [
        Finding(
            "model",
            "warning",
            f"it was trained on '{dictionary.model}', and this is '{subject.name}'",
            "load the model it was trained on, unless the two are one by different names",
        )
    ]


def _elsewhere(
    place: Place,
    here: Mapping[str, float],
    places: Mapping[str, tuple[Place, Reading]],
    found: Mapping[str, Mapping[str, float]],
) -> list[Finding]:
    best = min(places, key=lambda name: found[name]["fvu"], default=None)
    if best is None or not _far_better(found[best]["fvu"], here["fvu"]):
        return []
    other = places[best][0]
    part = "layer" if (other[0].kind, other[1].kind) == (place[0].kind, place[1].kind) else "hook"
    cause = f"{best} fits far better than {_words(place)}: FVU {found[best]['fvu']:.3f}, not {here['fvu']:.3f}"
    return [Finding(part, "error", cause, f"use it at {best}")]


def _otherwise(
    here: Mapping[str, float],
    others: Mapping[str, tuple[Place, Reading]],
    found: Mapping[str, Mapping[str, float]],
) -> list[Finding]:
    findings = []
    for part in ("activation", "normalisation"):
        names = [name for name, (_, reading) in others.items() if reading.part == part]
        best = min(names, key=lambda name: found[name]["fvu"], default=None)
        if best is not None and _far_better(found[best]["fvu"], here["fvu"]):
            cause = f"with {best} it fits far better: FVU {found[best]['fvu']:.3f}, not {here['fvu']:.3f}"
            findings.append(Finding(part, "error", cause, "compare the folder's configuration with its maker's"))
    return findings


def _unlike(dictionary: Dictionary, here: Mapping[str, float]) -> list[Finding]:
    """Against what the maker measured, as far as that is told."""
    findings, expected = [], dictionary.expected
    fvu, cure = expected.get("fvu"), "see the other findings; fetch the folder again, or train another dictionary"
    if fvu is None and here["fvu"] > POOR:
        findings.append(Finding("fit", "error", f"it leaves {here['fvu']:.3f} of the variance unexplained", cure))
    elif fvu is not None and here["fvu"] > WORSE * fvu + SLACK:
        cause = f"it leaves {here['fvu']:.3f} of the variance unexplained; its maker measured {fvu:.3f}"
        findings.append(Finding("fit", "error", cause, cure))
    for name, part, words, times in (
        ("l0", "activation", "features on at a time", ON),
        ("norm", "normalisation", "mean norm of the input", SCALE),
    ):
        before, now = expected.get(name, 0.0), here[name]
        if before and not 1 / times < now / before < times:
            cause = f"{words}: {now:.3g}, and its maker measured {before:.3g}"
            findings.append(Finding(part, "error", cause, "compare the folder's configuration with its maker's"))
    if here["l0"] > dictionary.width / 2:
        cause = f"{here['l0']:.3g} features are on at a time, for {dictionary.width} coordinates: that is not sparse"
        findings.append(
            Finding("activation", "error", cause, "compare the activation, k or thresholds with its maker's")
        )
    if dictionary.activation == "topk" and here["l0"] < dictionary.k / ON:
        cause = f"only {here['l0']:.3g} features are on at a time, of k = {dictionary.k}"
        findings.append(Finding("activation", "error", cause, "compare k with its maker's"))
    return findings


def _unaligned(dictionary: Dictionary, place: Place) -> list[Finding]:
    """Of an autoencoder: is each feature's decoder row the one nearest to its encoder row?"""
    if place[0] != place[1]:
        return []
    encoder = torch.nn.functional.normalize(dictionary.encoder, dim=1)
    decoder = torch.nn.functional.normalize(dictionary.decoder, dim=1)
    looked = torch.arange(0, len(dictionary), max(1, len(dictionary) // 1024))
    nearest = (encoder[looked] @ decoder.T).argmax(1)
    share = float((nearest == looked).float().mean())
    if share >= OWN:
        return []
    cause = f"only {share:.0%} of the features have their own decoder row nearest to their encoder row"
    return [Finding("decoder", "error", cause, "the decoder is not this encoder's: fetch the folder again")]


def _dead(dictionary: Dictionary, here: Mapping[str, float], rows: int) -> list[Finding]:
    known = dictionary.expected.get("dead", 0.0)
    if rows < ENOUGH * len(dictionary) or here["dead"] <= known + MANY_DEAD:
        return []
    told = f"; its maker found {known:.0%}" if "dead" in dictionary.expected else ""
    cause = f"{here['dead']:.0%} of the features never turn on in {rows} tokens{told}"
    return [Finding("dead", "warning", cause, "check it on text like what it was trained on")]


def _far_better(other: float, here: float) -> bool:
    return other < FAR_BETTER * here and here > SLACK and other < POOR


def _words(place: Place) -> str:
    return str(place[0]) if place[0] == place[1] else f"{place[0]} -> {place[1]}"
