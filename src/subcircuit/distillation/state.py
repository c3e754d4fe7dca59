"""What a run that has not ended leaves in its folder, and whose it is."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from subcircuit.checkpoint import Checkpoint
from subcircuit.errors import UsageError
from subcircuit.subject import Subject

__all__ = ["RECORD", "STATE", "State", "claim", "identity"]

STATE = "distillation.safetensors"  # of a run that is not finished
RECORD = "distillation.json"
PARTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a weight


class State:
    """A student's weights and its optimiser's, and the settings without which they mean nothing."""

    def __init__(self, settings: Mapping[str, Any], model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> None:
        self.settings, self.model, self.optimizer = settings, model, optimizer

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Replace the folder's state as a whole; `facts` are handed back by `restore`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, weight in self.model.named_parameters():
            tensors[f"weight {name}"] = weight.detach().clone()
            tensors |= {f"{part} {name}": value for part, value in self.optimizer.state[weight].items()}
        Checkpoint(self.settings, tensors, facts).save(folder / STATE)

    @torch.no_grad()
    def restore(self, folder: Path) -> dict[str, Any] | None:
        """Take the folder's state, where there is one. Raises UsageError for one of other settings."""
        saved = Checkpoint.load(folder / STATE, self.settings)
        if saved is None:
            return None
        for name, weight in self.model.named_parameters():
            weight.copy_(saved.tensors[f"weight {name}"])
            self.optimizer.state[weight] = {
                part: saved.tensors[f"{part} {name}"].to("cpu" if part == "step" else weight.device)
                for part in PARTS
                if f"{part} {name}" in saved.tensors
            }
        return saved.facts


def identity(
    settings: Mapping[str, Any], student: Subject, teacher: Subject, prompts: Sequence[Sequence[int]], processes: int
) -> dict[str, Any]:
    """Everything that the steps of a run depend on."""
    free = ("loss", "micro", "save_every")
    plain = {name: value for name, value in settings.items() if name not in free}
    loss = {name: str(value) for name, value in settings["loss"].items()}
    digest = hashlib.sha256(json.dumps([list(each) for each in prompts]).encode()).hexdigest()
    return {
        **plain,
        **loss,
        "student": student.revision,
        "teacher": teacher.revision,
        "prompts": f"{len(prompts)}, sha256:{digest[:16]}",
        "processes": processes,
    }


def claim(folder: Path, resume: bool) -> None:
    """Raises UsageError for a folder that is another's, or whose run has ended."""
    partial = (folder / STATE).with_suffix(".part")  # of a first checkpoint that was cut short
    if not folder.exists() or not any(path != partial for path in folder.iterdir()):
        return
    if not resume:
        raise UsageError(f"{folder} is not empty", "--resume goes on with the run in it, or give another --out")
    if not (folder / STATE).is_file():
        what = "is finished" if (folder / RECORD).is_file() else "holds no run to go on with"
        raise UsageError(f"{folder} {what}", "give another --out")
