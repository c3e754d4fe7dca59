"""Files that are there whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from subcircuit.errors import ResourceError

__all__ = ["atomically"]


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the place and move there. Raises ResourceError when the disk is full."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        if beside.is_file():
            beside.unlink()
        raise ResourceError(
            f"{path} cannot be written: {error}", "make room and start again as before; what is there is kept"
        ) from error
