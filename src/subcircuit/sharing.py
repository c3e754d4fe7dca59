"""Circuits through the Hugging Face hub: plain files without code, read at one commit, which is recorded."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from subcircuit.card import EvidenceLike, card, is_local
from subcircuit.errors import ResourceError, UsageError
from subcircuit.hub import HTTPError
from subcircuit.records import CircuitFile, Origin

__all__ = ["EVIDENCE", "Shared", "download"]

log = logging.getLogger(__name__)

NEEDED, EVIDENCE = ("circuit.json", "scores.safetensors"), "evidence.json"
PATIENCE = 10.0  # seconds for the hub's first answer
LOG_IN = "log in with a token that may write there: hf auth login"


class Shared(ABC):
    """What is saved to a folder and loaded from one can be sent to the hub and fetched from it."""

    origin: Origin

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write it into a folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: str | Path) -> Self:
        """Read it from a folder."""

    @abstractmethod
    def with_origin(self, origin: Origin) -> Self:
        """The same with another origin."""

    def push_to_hub(self, repo: str, *, evidence: EvidenceLike | None = None, private: bool = False) -> str:
        """Send it to a repository on the hub, with a card; returns the commit.

        Args:
            repo: "user/name"; made where it is not there yet.
            evidence: what `evidence(...)` gave; goes into the card and along as `evidence.json`.
            private: who may read a repository that is made now.

        Raises UsageError for a name that cannot be one, ResourceError when the hub refuses or is out of reach.
        """
        for what, name in (("model", self.origin.model), ("task", self.origin.task)):
            if is_local(name):
                log.warning("others cannot load its %s by the name in its origin: %s", what, name)
        with TemporaryDirectory() as folder, _answers(repo):
            self.save(folder)
            if evidence is not None:
                evidence.save(folder)
            text = card(CircuitFile.read(Path(folder)), evidence, repo)
            (Path(folder) / "README.md").write_text(text, encoding="utf-8")
            HfApi().create_repo(repo, private=private, exist_ok=True)
            done = HfApi().upload_folder(
                repo_id=repo, folder_path=folder, commit_message=f"A circuit of {self.origin.task}"
            )
        return str(done.oid)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """From a folder, or a repository on the hub, at a branch, tag or commit; its origin then names the commit.

        Raises UsageError for a name or revision that is nothing known, ResourceError when the hub is out of reach,
        DataError for files that are no circuit.
        """
        if Path(name).is_dir():
            return cls.load(name)
        folder, commit = download(str(name), revision)
        found = cls.load(folder)
        return found.with_origin(found.origin.model_copy(update={"shared": f"{name}@{commit}"}))


def download(repo: str, revision: str | None = None) -> tuple[Path, str]:
    """A repository's circuit in the hub's own cache, and the commit it is of; nothing else of it is fetched.

    Raises UsageError when the hub has no such circuit, ResourceError when it is gated or out of reach.
    """
    with _answers(repo, revision):
        offline = not _in_reach(repo, revision)
        first = hf_hub_download(repo, NEEDED[0], revision=revision, local_files_only=offline)
        folder = Path(first).parent  # the hub's cache keeps a folder per commit
        for name in NEEDED[1:]:
            hf_hub_download(repo, name, revision=folder.name, local_files_only=offline)
        try:
            hf_hub_download(repo, EVIDENCE, revision=folder.name, local_files_only=offline)
        except EntryNotFoundError:
            log.info("%s has no evidence", repo)
    if offline:
        log.warning("the hub is out of reach: %s is read from the hub's cache, at commit %s", repo, folder.name)
    return folder, folder.name


def _in_reach(repo: str, revision: str | None) -> bool:
    """Asked once, without retries. A refusal is an answer too, and is raised."""
    try:
        HfApi().model_info(repo, revision=revision, timeout=PATIENCE)
    except HfHubHTTPError:
        raise
    except (OSError, HTTPError):
        return False
    return True


@contextmanager
def _answers(repo: str, revision: str | None = None) -> Iterator[None]:
    """The hub's refusals in our words."""
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"'{repo}' is no folder here and no name of a repository", "write user/name") from error
    except LocalTokenNotFoundError as error:
        raise ResourceError("the hub knows only those who are logged in", LOG_IN) from error
    except GatedRepoError as error:
        raise ResourceError(f"'{repo}' is gated", "accept its terms on its page, then: hf auth login") from error
    except RevisionNotFoundError as error:
        raise UsageError(f"'{repo}' has no revision '{revision}' on the hub", "leave it out for main") from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"'{repo}' is no folder here, and the hub has no such repository, or it is private",
            "check the spelling; for a private one: hf auth login",
        ) from error
    except LocalEntryNotFoundError as error:
        raise ResourceError(
            f"the hub is out of reach, and '{repo}' is not in its cache", "check the connection (HF_ENDPOINT)"
        ) from error
    except EntryNotFoundError as error:
        raise UsageError(
            f"'{repo}' is on the hub, but it holds no circuit", "give a repository that was pushed"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        message = str(error).strip().partition("\n")[0]
        cure = LOG_IN if status in (401, 403) else "try again later"
        raise ResourceError(f"the hub refuses '{repo}': {message}", cure) from error
    except HTTPError as error:
        message = str(error).strip().partition("\n")[0]
        raise ResourceError(f"the hub is out of reach: {message}", "check the connection (HF_ENDPOINT)") from error
