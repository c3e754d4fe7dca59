"""Circuits that cannot be taken out of a model, refused by name before anything is computed."""

from pathlib import Path
from typing import Literal, cast, get_args

from subcircuit.circuit import Circuit
from subcircuit.errors import BudgetNotMet, DataError, UnknownName, UnsupportedModel, UsageError
from subcircuit.extraction.forms import Form
from subcircuit.scores import Scores
from subcircuit.sites import Kind
from subcircuit.subject import Subject

__all__ = ["Static", "check", "require_within", "static_reference"]

Static = Literal["mean", "zero"]  # references that are the same in every prompt, and can be folded into weights


def check(subject: Subject, circuit: Circuit, folder: Path, form: str) -> None:
    """Raises UnknownName, UsageError, UnsupportedModel or DataError for what cannot be extracted."""
    if form not in get_args(Form):
        raise UnknownName("form", form, get_args(Form))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder", "give another --out")
    if circuit.edges is not None:
        raise DataError("this is a circuit of edges; weights belong to nodes", "find one by node-pruning")
    if circuit.origin.method == "causal-tracing":
        raise DataError("a causal tracing is a set of nodes to replace, not one to keep", "find one by node-pruning")
    if not subject.family.causal or subject.family_name not in _extractable():
        raise UnsupportedModel(f"no model is extracted from one of the family {subject.family_name}", "use a decoder")
    _check_fit(subject, circuit)
    inner = [truth for site, truth in circuit.kept.items() if site.kind in (Kind.CHANNEL, Kind.HEAD, Kind.NEURON)]
    if inner and not any(bool(truth.any()) for truth in inner):
        raise DataError("the circuit keeps no head and no neuron", "find one with a larger budget: --kl")


def static_reference(circuit: Circuit, asked: str | None) -> Static:
    """The reference to fold in: the one asked for, else the circuit's own where it is the same in every prompt."""
    if asked is not None and asked not in get_args(Static):
        raise UnknownName("reference", asked, get_args(Static))
    own = circuit.origin.reference
    return cast(Static, asked or (own if own in get_args(Static) else "mean"))


def require_within(scores: Scores, bound: float | None, circuit: Circuit, reference: Static) -> None:
    """Raises BudgetNotMet when the circuit's KL is beyond the bound under the reference that will be folded in."""
    kl = scores.kl
    if bound is None or kl.mean <= bound:
        return
    before = circuit.origin.result.get("kl")
    found = f"; it was found under {circuit.origin.reference} with {before:.3g}" if before is not None else ""
    raise BudgetNotMet(
        f"under {reference} the circuit has a KL of {kl.mean:.3g} [{kl.low:.3g}, {kl.high:.3g}] nats on validation "
        f"pairs, above the bound of {bound:g}{found}; nothing was written",
        f"find a circuit with --reference {reference}, or raise --bound",
    )


def _extractable() -> set[str]:
    """Families whose classes are in transformers itself."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _check_fit(subject: Subject, circuit: Circuit) -> None:
    layers = {site.layer for site in circuit.kept}
    wrong = [site for site, truth in circuit.kept.items() if subject.units(site.kind) != len(truth)]
    if wrong or layers != set(range(len(subject))):
        where = f"{len(circuit.kept[wrong[0]])} {wrong[0].kind}" if wrong else f"{len(layers)} layers"
        has = f"{subject.units(wrong[0].kind)}" if wrong else f"{len(subject)}"
        raise DataError(
            f"the circuit of {circuit.origin.model} has {where}, and {subject.name} has {has}",
            "extract it from the model it was found in",
        )
