"""The command line as a test calls it: the real `main`, its exit code, what it printed, JSON against its schema."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import subcircuit
from subcircuit.cli import main

__all__ = ["Answer", "Ask", "asking", "schema"]


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]


def schema(name: str) -> dict[str, Any]:
    text = (Path(subcircuit.__file__).parent / "schemas" / f"{name}.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def asking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """A function that runs a command line. With `--json`, stdout must be one document that keeps to its schema."""

    def ask(*arguments: object) -> Answer:
        words = [str(word) for word in arguments]
        monkeypatch.setattr(sys, "argv", ["subcircuit", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        assert isinstance(exit_.value.code, int)
        answer = Answer(exit_.value.code, *capsys.readouterr())
        assert "Traceback" not in answer.err
        if "--json" in words:
            of = "hierarchy" if words[1] == "hierarchy" else words[0]  # the one search whose circuit is of features
            jsonschema.validate(answer.json, schema("error" if list(answer.json) == ["error"] else of))
        return answer

    return ask
