"""The Hugging Face hub: one question about a name, and one clear answer.

The hub is asked once, without retries, whether it has the name; everything is then loaded at one commit. Where the hub
is out of reach, what an earlier run left in the hub's own cache is used.
"""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,  # not exported, but the one name for a failed request over requests, httpx and httpx2
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from subcircuit.builtin import builtin_models
from subcircuit.errors import ResourceError, SubcircuitError, UnknownName, UsageError

__all__ = ["HTTPError", "find_on_hub"]

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for the hub's first answer
ELSEWHERE = "a local folder, a local .gguf file and the built-in models need no hub"


def find_on_hub(name: str, revision: str | None = None) -> tuple[Path, str, dict[str, Any]]:
    """A model's config.json, its commit, and the options with which transformers loads exactly that commit.

    Raises UsageError when the hub has no such model or revision, ResourceError when it is gated or out of reach.
    """
    try:
        HfApi().model_info(name, revision=revision, timeout=PATIENCE)
        config = Path(hf_hub_download(name, "config.json", revision=revision))
    except HFValidationError as error:
        raise _unknown(name, "nor can it be the name of a model on the Hugging Face hub") from error
    except GatedRepoError as error:
        raise ResourceError(
            f"the model '{name}' is gated: the hub gives it only to those who accepted its terms",
            f"accept them on its page ({name} on the hub), then log in: hf auth login",
        ) from error
    except RevisionNotFoundError as error:
        raise UsageError(
            f"the model '{name}' has no revision '{revision}' on the hub", "leave it out for main"
        ) from error
    except RepositoryNotFoundError as error:
        raise _unknown(name, "and the Hugging Face hub has no such model, or it is private") from error
    except LocalEntryNotFoundError as error:
        return _cached(name, revision, error)
    except EntryNotFoundError as error:
        raise UsageError(
            f"'{name}' is on the hub, but it has no config.json: it is not a model for transformers"
        ) from error
    except (OSError, HTTPError) as error:
        return _cached(name, revision, error)
    return config, _commit(config), {"revision": _commit(config)}


def _cached(name: str, revision: str | None, reason: Exception) -> tuple[Path, str, dict[str, Any]]:
    try:
        config = Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        message = str(reason).strip().partition("\n")[0]
        unknown = _unknown(name, f"and the Hugging Face hub is out of reach: {message}")
        raise ResourceError(
            unknown.message, f"check the connection (HF_HUB_OFFLINE, HF_ENDPOINT); {ELSEWHERE}"
        ) from error
    log.warning("the hub is out of reach: %s is read from the hub's cache, at commit %s", name, _commit(config))
    return config, _commit(config), {"revision": _commit(config), "local_files_only": True}


def _commit(file: Path) -> str:
    return file.parent.name  # the hub's cache keeps a folder per commit


def _unknown(name: str, hub: str) -> SubcircuitError:
    near = UnknownName("built-in model", name, builtin_models()).message
    return UsageError(f"{near}; '{name}' is no folder or .gguf file here, {hub}", f"check the spelling; {ELSEWHERE}")
