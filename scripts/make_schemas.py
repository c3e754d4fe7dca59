"""Write the JSON Schemas of `src/subcircuit/schemas` from the models of the files and of what `--json` prints.

python scripts/make_schemas.py            write them
python scripts/make_schemas.py --check    fail when they are not what the models say
"""

import argparse
import json
from pathlib import Path

from pydantic import BaseModel

from subcircuit.cli._benched import Benched
from subcircuit.cli._concepts_told import Concepts
from subcircuit.cli._exchanged import Brought, Exported, Pushed, SubmissionChecked
from subcircuit.cli._featured import Featured
from subcircuit.cli._graph_outputs import Drawn
from subcircuit.cli._outputs import Checked, Distilled, Failure, Found, Listing, Reported, Shown, Viewed
from subcircuit.cli._planned import Planned
from subcircuit.cli._scored import Scored
from subcircuit.evaluation import BudgetCurves, Evidence, FullEvidence, TokenEffects
from subcircuit.evaluation.comparison import Comparison
from subcircuit.extraction import Extraction
from subcircuit.graphs.study import FeatureCircuit
from subcircuit.records import CircuitFile
from subcircuit.runs import Run
from subcircuit.shards.store import Manifest

FOLDER = Path(__file__).parent.parent / "src" / "subcircuit" / "schemas"
FILES: dict[str, type[BaseModel]] = {
    "budgets": BudgetCurves,
    "circuit": CircuitFile,
    "evidence": Evidence,
    "full": FullEvidence,
    "run": Run,
    "shards": Manifest,
    "tokens": TokenEffects,
}
OUTPUTS: dict[str, type[BaseModel]] = {
    "bench": Benched,
    "check": Checked,
    "check-mib": SubmissionChecked,
    "compare": Comparison,
    "concepts": Concepts,
    "distill": Distilled,
    "error": Failure,
    "export": Exported,
    "extract": Extraction,
    "features": Featured,
    "find": Found,
    "graph": Drawn,
    "hierarchy": FeatureCircuit,
    "import": Brought,
    "list": Listing,
    "plan": Planned,
    "pull": Brought,
    "push": Pushed,
    "report": Reported,
    "score": Scored,
    "show": Shown,
    "view": Viewed,
}


def schemas() -> dict[str, str]:
    """The text of every schema file, by name."""
    return {f"{name}.json": _text(model) for name, model in {**FILES, **OUTPUTS}.items()}


def _text(model: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is out of date")
    check = parser.parse_args().check
    FOLDER.mkdir(exist_ok=True)
    stale = [name for name, text in schemas().items() if _read(FOLDER / name) != text]
    if check and stale:
        raise SystemExit(f"out of date: {', '.join(stale)}; run: python scripts/make_schemas.py")
    for name in stale:
        (FOLDER / name).write_text(schemas()[name], encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    main()
