"""The published JSON Schemas are those of the models, and are schemas."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import subcircuit

FOLDER = Path(subcircuit.__file__).parent / "schemas"
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_schemas.py"
NAMES = (
    *("bench", "budgets"),
    *(
        "check",
        "check-mib",
        "circuit",
        "compare",
        "concepts",
        "distill",
        "error",
        "evidence",
        "export",
        "extract",
        "features",
        "find",
        "full",
        "graph",
        "hierarchy",
        "import",
    ),
    *("list", "plan", "pull", "push", "report", "run", "score", "shards", "show", "tokens", "view"),
)


@pytest.fixture(scope="module")
def make_schemas() -> Any:
    spec = importlib.util.spec_from_file_location("make_schemas", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_models_say(make_schemas: Any) -> None:
    written = {path.name: path.read_text() for path in FOLDER.glob("*")}
    assert written == make_schemas.schemas(), "run: python scripts/make_schemas.py"
    assert set(written) == {f"{name}.json" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_schema_that_refuses_what_it_does_not_know(name: str) -> None:
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"unknown": 1}, schema)
