"""The folder of an extracted model: configuration, weights, tokenizer, its card and its record."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import PreTrainedModel

from subcircuit import compact
from subcircuit.card import COLUMNS, EvidenceLike, evidence_rows, is_local, rendered
from subcircuit.circuit import Circuit
from subcircuit.extraction.forms import MODULE, Checkpoint
from subcircuit.extraction.records import Extraction
from subcircuit.subject import Subject

__all__ = ["add_module", "write_card", "write_model"]

TEMPLATE = Path(__file__).with_name("card.md.jinja")
TAGS = ["circuit", "extracted", "subcircuit"]


def write_model(checkpoint: Checkpoint, subject: Subject, folder: Path) -> None:
    """Everything that loading takes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(checkpoint.config, indent=1) + "\n", encoding="utf-8")
    weights = {name: value.detach().cpu().contiguous() for name, value in checkpoint.weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if "compact" in checkpoint.config:
        add_module(folder)
    model: PreTrainedModel = subject.model
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)


def add_module(folder: Path) -> None:
    """The modelling file that a compact model is loaded by."""
    shutil.copyfile(str(compact.__file__), folder / f"{MODULE}.py")


def write_card(record: Extraction, circuit: Circuit, evidence: EvidenceLike | None, folder: Path) -> None:
    """README.md, `extraction.json` and the circuit's own file."""
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": TAGS}
    if "/" in record.origin.model and not is_local(record.origin.model):
        header["base_model"] = record.origin.model
    text = rendered(
        TEMPLATE,
        header,
        record=record,
        origin=record.origin,
        sizes=circuit.sizes,
        evidence=evidence,
        columns=list(COLUMNS.values()),
        rows=list(evidence_rows(evidence)) if evidence else [],
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "extraction.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "circuit.json").write_text(circuit.file().model_dump_json(indent=1) + "\n", encoding="utf-8")
