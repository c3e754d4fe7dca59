"""From a name to a subject: a built-in model, a local folder, a local GGUF file or a hub id, looked up in that order.

The configuration is read first, so that a model of an unknown family is refused before its weights are touched. Weights
that a checkpoint lacks are refused too: transformers would fill them with random numbers.
"""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from subcircuit.batching import out_of_memory
from subcircuit.builtin import builtin_models, sha256
from subcircuit.compact import PREFIX, compact_class
from subcircuit.conversion import from_builtin, from_gguf
from subcircuit.errors import (
    DataError,
    MissingExtra,
    ResourceError,
    SubcircuitError,
    UnknownName,
    UnsupportedModel,
    UsageError,
)
from subcircuit.families._base import Family, find_family
from subcircuit.hub import HTTPError, find_on_hub
from subcircuit.progress import Progress, silent
from subcircuit.subject import Subject

__all__ = ["DEVICES", "load", "load_shape", "load_tokenizer"]

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cpu", "cuda", "mps", "spread")
ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Source:
    """Where transformers finds a model, and which exact weights these are."""

    path: str  # a folder, or a hub id
    revision: str  # a hub commit, or "sha256:" and a hash of the weights
    config: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)  # what from_pretrained needs besides the path


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    attn: str | None = None,
    checkpointing: bool = False,
    progress: Progress = silent,
) -> Subject:
    """A model by name, ready to be studied.

    Args:
        name: a built-in name (`builtin_models()`), a folder, a `.gguf` file, or a hub id. "./x" is always a path.
        revision: a branch, tag or commit of a hub id.
        dtype: of the weights: float32, bfloat16 or float16.
        device: cpu, cuda or mps; "auto" takes the best there is; "spread" lays the layers over all of them
            (`device_map="auto"`).
        attn: sdpa or eager; by default sdpa, where the model's attention allows it.
        checkpointing: whether layers are run again for their gradients; see `Subject`.
        progress: told of the download, in bytes, and of the conversion.

    Raises:
        UsageError, UnknownName: a name or an option that is nothing known.
        UnsupportedModel: an unknown family, or weights that are not a language model's.
        ResourceError: a registry, a hub, a device or memory that is not there.
        DataError: files that cannot be read.
        MissingExtra: "spread" without accelerate.
    """
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    place = _device(device)
    source = _find(name, revision, progress)
    family = find_family(str(source.config.get("model_type")))
    tokenizer = _tokenizer(source)
    model = _model(source, family, DTYPES[dtype], place, _attention(source, attn))
    log.info("loaded %s (%s) on %s in %s", name, source.revision, model.device, dtype)
    return Subject(model, tokenizer, name=str(name), revision=source.revision, checkpointing=checkpointing)


def load_shape(name: str | Path, *, revision: str | None = None, progress: Progress = silent) -> Subject:
    """A model's layers and units without its weights, by the same names: it cannot be run. Raises as `load` does."""
    source = _find(name, revision, progress)
    head = _head(source, find_family(str(source.config.get("model_type"))))
    if head not in (AutoModelForCausalLM, AutoModelForMaskedLM):
        raise UnsupportedModel(f"the layers of {name} differ in size", "give the model that it was cut from")
    try:
        with torch.device("meta"):
            model = head.from_config(AutoConfig.from_pretrained(source.path, **source.options))
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{source.path} has no configuration that can be read: {_first_line(error)}") from error
    return Subject(model, name=str(name), revision=source.revision)


def load_tokenizer(
    name: str | Path, *, revision: str | None = None, progress: Progress = silent
) -> PreTrainedTokenizerBase:
    """A model's tokenizer without its weights, by the same names. Raises as `load` does."""
    return _tokenizer(_find(name, revision, progress))


def _find(name: str | Path, revision: str | None, progress: Progress) -> Source:
    text, path = str(name), Path(name).expanduser()
    known = builtin_models()
    if revision is not None and (text in known or path.exists()):
        raise UsageError(f"'{text}' has no revisions: it is not on the hub", "leave the revision out")
    if text in known:
        folder, made_from = from_builtin(known[text], progress)
        return Source(str(folder), made_from, _config(folder))
    if path.is_dir():
        return Source(str(path), _fingerprint(path), _config(path))
    if path.is_file() and path.suffix == ".gguf":
        folder, made_from = from_gguf(path, progress)
        return Source(str(folder), made_from, _config(folder))
    if path.is_file() or path.suffix == ".gguf" or path.is_absolute() or text.startswith((".", "~")):
        problem = "is not a folder or a .gguf file" if path.exists() else "is not there"
        raise UsageError(f"the model '{text}' {problem}", "give a folder with a config.json, a .gguf file, or a name")
    config, commit, options = find_on_hub(text, revision)
    return Source(text, commit, _config(config.parent), options)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no model: it has no config.json", "give a Hugging Face folder") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}", "save the model again with save_pretrained") from error
    return config


def _fingerprint(folder: Path) -> str:
    """A hash over the content of the configuration and the weights: the revision of a local folder."""
    weights = sorted(path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    files = [path for path in [folder / "config.json", *weights] if path.is_file()]
    return _hashed(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=8)
def _hashed(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Read once for a shape, a tokenizer and weights; times and sizes are there to tell when a file is another."""
    digest = hashlib.sha256()
    for path, *_ in files:
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _device(device: str) -> str:
    if device not in DEVICES:
        raise UnknownName("device", device, DEVICES)
    if device == "spread":
        if importlib.util.find_spec("accelerate") is None:
            raise MissingExtra("device 'spread'", "accelerate")
        return device
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in there.items() if found)
    if not there[device]:
        usable = ", ".join(name for name, found in there.items() if found)
        raise ResourceError(f"torch {torch.__version__} finds no device '{device}'", f"there are: {usable}")
    return device


def _attention(source: Source, attn: str | None) -> str:
    if attn is None:
        capped = source.config.get("attn_logit_softcapping")  # Gemma 2: sdpa cannot cap attention logits
        return "eager" if capped else "sdpa"
    if attn not in ATTENTION:
        raise UnknownName("attention", attn, ATTENTION)
    return attn


def _tokenizer(source: Source) -> PreTrainedTokenizerBase:
    more: dict[str, Any] = {"trust_remote_code": False}
    if str(source.config.get("model_type")).startswith(PREFIX):
        more["config"] = _compact(source).config_class.from_pretrained(
            source.path
        )  # else it is looked for in the folder
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.path, **more, **source.options)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{source.path} has no tokenizer that can be read: {_first_line(error)}",
            "save one beside the weights: tokenizer.save_pretrained(folder)",
        ) from error
    return tokenizer


def _model(source: Source, family: Family, dtype: torch.dtype, place: str, attn: str) -> PreTrainedModel:
    head = _head(source, family)
    model: PreTrainedModel
    spread = {"device_map": "auto"} if place == "spread" else {}
    try:
        model, report = head.from_pretrained(
            source.path, dtype=dtype, attn_implementation=attn, output_loading_info=True, **spread, **source.options
        )
        model = model if spread else model.to(place)  # type: ignore[arg-type]  # transformers types only a device
    except (OSError, ValueError, RuntimeError, MemoryError, ImportError, SafetensorError, HTTPError) as error:
        raise _unreadable(source, place, error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UnsupportedModel(
            f"{source.path} lacks {len(missing)} weights of a {type(model).__name__}: {shown}",
            "use a checkpoint that was trained with its language-model head, and all of its files",
        )
    return model


def _head(source: Source, family: Family) -> Any:
    """What reads the weights. A compact model is read by this library's own class, not by code in its folder."""
    if not str(source.config.get("model_type")).startswith(PREFIX):
        return AutoModelForCausalLM if family.causal else AutoModelForMaskedLM
    return _compact(source)


def _compact(source: Source) -> Any:
    (named,) = source.config.get("architectures") or ["none"]
    try:
        return compact_class(str(named).removeprefix("Compact"))
    except AttributeError as error:
        raise DataError(f"{source.path} names an unknown architecture: {named}", "extract it again") from error


def _unreadable(source: Source, place: str, error: Exception) -> SubcircuitError:
    if out_of_memory(error):
        message = f"{source.path} does not fit on {place}: {_first_line(error)}"
        return ResourceError(message, "use a smaller dtype (bfloat16), device 'cpu', or 'spread'")
    message = f"the weights of {source.path} could not be read: {_first_line(error)}"
    if source.options:  # a hub id
        return ResourceError(message, "check the connection and run again: what was fetched is kept")
    return DataError(message, "a folder needs model.safetensors, or its shards and their index: fetch or save it again")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
