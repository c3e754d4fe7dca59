"""The state of an interrupted search: tensors and a few numbers in one safetensors file, never half-written."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from subcircuit.errors import DataError, UsageError

__all__ = ["Checkpoint"]


@dataclass
class Checkpoint:
    """Tensors and plain facts, with the settings they belong to."""

    settings: Mapping[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Replace the file as a whole."""
        meta = {"settings": json.dumps(dict(self.settings)), "facts": json.dumps(self.facts)}
        partial = path.with_suffix(".part")
        save_file({name: value.detach().contiguous() for name, value in self.tensors.items()}, partial, metadata=meta)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, Any]) -> "Checkpoint | None":
        """Read it back; None when there is none.

        Raises UsageError when it belongs to other settings, naming them; DataError when it cannot be read.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata()
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            saved, facts = json.loads(meta["settings"]), json.loads(meta["facts"])
        except (SafetensorError, TypeError, KeyError, json.JSONDecodeError) as error:
            raise DataError(f"{path} is not the state of a search: {error}", "remove it and start again") from error
        changed = [name for name in {**saved, **settings} if saved.get(name) != settings.get(name)]
        if changed:
            what = ", ".join(f"{name}: {saved.get(name)} -> {settings.get(name)}" for name in sorted(changed))
            raise UsageError(
                f"{path.parent} was started with other settings ({what})",
                "resume with the settings it was started with, or start again in another folder",
            )
        return cls(settings, tensors, facts)
