"""A circuit as a model of its own, really smaller: what is off has left the weights, its mean has gone into biases.

The extracted model equals the circuit with its complement at the mean (or at zero), up to rounding. That is measured on
every extraction; nothing is written where it does not hold.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from subcircuit.card import EvidenceLike
from subcircuit.circuit import Circuit
from subcircuit.compact import compact_class
from subcircuit.errors import NumericalError
from subcircuit.extraction.checks import Static, check, require_within, static_reference
from subcircuit.extraction.forms import MODULE, Checkpoint, Form, as_compact, as_dense
from subcircuit.extraction.measuring import matrix_flops, measured
from subcircuit.extraction.records import Extraction, Measured
from subcircuit.extraction.writing import write_card, write_model
from subcircuit.intervention import Reference, acting, effective, masked_logits
from subcircuit.progress import Progress, silent
from subcircuit.scores import Scores, judge, summarise
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs, Task

__all__ = ["MODULE", "Extraction", "Form", "Measured", "Static", "extract", "matrix_flops", "measured"]

ROUNDING = 100  # steps of the smallest difference that a number of a logit's size can have


def extract(
    subject: Subject,
    circuit: Circuit,
    task: Task,
    folder: str | Path,
    *,
    form: Form = "compact",
    reference: Static | None = None,
    bound: float | None = None,
    n: int = 64,
    evidence: EvidenceLike | None = None,
    progress: Progress = silent,
) -> Extraction:
    """Write a circuit as a Hugging Face folder: weights, tokenizer, card, `extraction.json`.

    Args:
        folder: made here; it appears when it is whole.
        form: "compact", layers of different sizes, which need the file that is put beside them; "dense", the stock
            architecture.
        reference: what stands for nodes that are gone, "mean" or "zero"; by default the circuit's own, else the mean
            over its discovery prompts.
        bound: the largest KL(full || circuit) under that reference on validation prompts, in nats.
        n: prompt pairs of the validation and the test split to score on.
        evidence: of the circuit, for the card.

    Raises BudgetNotMet where the bound is broken, with the numbers; UnsupportedModel where the form has no place for
    something; DataError for circuits that are none of this model's nodes; NumericalError if the model that was written
    is not the circuit.
    """
    folder = Path(folder)
    check(subject, circuit, folder, form)
    fill = static_reference(circuit, reference)
    trial = _Trial(subject, circuit, task, fill, n)
    progress("extracting", 0, 4)
    rescored = trial.rescored()
    require_within(rescored, bound, circuit, fill)
    checkpoint = trial.checkpoint(form)
    scratch = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        write_model(checkpoint, subject, scratch)
        progress("extracting", 1, 4)
        model = _read(scratch, checkpoint, subject)
        difference = trial.difference(model)
        progress("extracting", 2, 4)
        before, after = measured([subject.model, model])
        progress("extracting", 3, 4)
        record = Extraction(
            origin=circuit.origin,
            form=form,
            reference=fill,
            bound=bound,
            pairs=n,
            rescored=rescored,
            test=trial.tested(model),
            difference=difference,
            layers=_layers(checkpoint, model),
            before=before,
            after=after,
        )
        write_card(record, circuit, evidence, scratch)
        if folder.exists():
            folder.rmdir()
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    progress("extracting", 4, 4)
    return record


class _Trial:
    """A circuit under a reference that does not depend on the prompt, on the validation and the test split."""

    def __init__(self, subject: Subject, circuit: Circuit, task: Task, fill: Static, n: int) -> None:
        self.subject, self.mask, self.fill = subject, circuit.mask(), fill
        origin = circuit.origin
        self.source = task.pairs(subject.tokenizer, origin.pairs["train"], seed=origin.seed, split="train").clean
        self.validation, self.test = (
            task.pairs(subject.tokenizer, n, seed=origin.seed, split=split) for split in ("validation", "test")
        )
        self.reference = Reference(
            subject, fill, self.validation.clean, self.validation.corrupt, acting(self.mask), source=self.source
        )
        self.ablated = masked_logits(subject, self.validation.clean, self.mask, self.reference)

    def rescored(self) -> Scores:
        """The circuit itself, on validation pairs."""
        return self._scores(self.ablated, self.validation)

    def checkpoint(self, form: Form) -> Checkpoint:
        gates, values = effective(self.subject, self.mask), self.reference(torch.arange(1))
        cut = as_compact if form == "compact" else as_dense
        return cut(self.subject, gates, values)

    @torch.no_grad()
    def difference(self, model: PreTrainedModel) -> float:
        """Of the extracted model from the ablated one. Raises NumericalError beyond rounding."""
        logits = _logits(self.subject, model, self.validation)
        difference, size = float((logits - self.ablated).abs().max()), float(self.ablated.abs().max())
        limit = ROUNDING * torch.finfo(self.subject.dtype).eps * max(size, 1.0)
        if not difference <= limit:
            raise NumericalError(
                f"the extracted model is not the circuit: a logit differs by {difference:.2g} (rounding: {limit:.2g})",
                "load the model with --dtype float32, and report this if it is",
            )
        return difference

    def tested(self, model: PreTrainedModel) -> Scores:
        return self._scores(_logits(self.subject, model, self.test), self.test)

    def _scores(self, logits: Tensor, pairs: Pairs) -> Scores:
        full = masked_logits(self.subject, pairs.clean, {}, self.reference)
        closed = {site: torch.zeros_like(gate) for site, gate in self.mask.items()}
        empty = masked_logits(self.subject, pairs.clean, closed, self.reference)
        found, whole, nothing = (judge(full, each, pairs) for each in (logits, full, empty))
        return summarise(found, whole, nothing, seed=0)


def _logits(subject: Subject, model: PreTrainedModel, pairs: Pairs) -> Tensor:
    smaller = Subject(model, name=subject.name)
    return masked_logits(smaller, pairs.clean, {}, lambda rows: {})


def _read(folder: Path, checkpoint: Checkpoint, subject: Subject) -> PreTrainedModel:
    """What was written, by the class that users get."""
    named = checkpoint.config["architectures"][0]
    head = compact_class(named.removeprefix("Compact")) if "compact" in checkpoint.config else AutoModelForCausalLM
    attention = subject.model.config._attn_implementation
    read: Any = head.from_pretrained(folder, dtype=subject.dtype, attn_implementation=attention)
    model: PreTrainedModel = read.to(subject.device).eval()
    return model


def _layers(checkpoint: Checkpoint, model: PreTrainedModel) -> list[dict[str, int]]:
    config = model.config
    if "compact" in checkpoint.config:
        return [{name: each[name] for name in ("heads", "kv_heads", "neurons")} for each in config.compact]
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    neurons = int(getattr(config, "intermediate_size", None) or config.n_inner)
    return [{"heads": heads, "kv_heads": groups, "neurons": neurons}] * int(config.num_hidden_layers)
