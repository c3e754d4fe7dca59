"""What a reader of a report must know before its numbers: what is missing, missed, or measured on too little."""

from subcircuit.evaluation import Evidence, TokenEffects
from subcircuit.evaluation.comparison import Scored
from subcircuit.evaluation.setting import traced
from subcircuit.records import missed
from subcircuit.runs import Run

__all__ = ["warnings"]

FEW = 30  # prompts below which a bootstrap interval is a rough guess
LOW = 0.6  # accuracy of the full model below which there is little behaviour to explain


def warnings(scored: Scored, run: Run | None, tokens: TokenEffects | None = None) -> list[str]:
    """A sentence each, the gravest first."""
    origin, found, told = scored.circuit.origin, scored.evidence, []
    if run is not None and not run.done:
        told.append(f"The search is {run.status}, so the circuit may not be its last.")
    if "kl" in origin.result and missed(origin.result):
        told.append("The search missed its own goal on validation prompts.")
    if found is None:
        return [*told, f"Not scored yet, so nothing here is proven: subcircuit score {scored.folder}"]
    told += _of_evidence(found, origin.result.get("budget"))
    if tokens is not None and not tokens.of(found):
        told.append(f"tokens.json is not of the evidence's prompts: subcircuit score {scored.folder}")
    if traced(scored.circuit):
        return told
    if scored.full is None:
        told.append(f"No curve over sizes and no stability yet: subcircuit score {scored.folder} --full")
    elif scored.curves is None:
        told.append(f"full.json is not of the same prompts: subcircuit score {scored.folder} --full")
    return told


def _of_evidence(found: Evidence, budget: float | None) -> list[str]:
    told, kl = [], found.circuit.kl.mean
    if found.split != "test":
        told.append(f"Scored on the {found.split} split, which the search has looked at.")
    if budget is not None and kl > budget:
        told.append(f"On unseen prompts the KL is {kl:.3g} nats, above the {budget:g} that the search kept to.")
    if found.pairs < FEW:
        told.append(f"Scored on {found.pairs} prompt pairs only: the intervals are rough.")
    if found.full.accuracy.mean < LOW:
        told.append(f"The full model answers {found.full.accuracy.mean:.0%} of the prompts as the task has it.")
    if not found.random:
        told.append("Scored without random circuits beside it.")
    return told
