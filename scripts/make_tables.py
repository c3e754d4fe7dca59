"""Write the tables of the README and the docs from the JSON files of `benchmarks/results`.

python scripts/make_tables.py            rewrite what stands between the markers
python scripts/make_tables.py --check    fail when a table is not what the results say

A table stands between `<!-- results NAME: made by scripts/make_tables.py -->` and `<!-- end of results -->`.
"""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _page_tables as pages
import _readme_tables as readme
import _study_tables as studies

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
BEGIN, END = "<!-- results {}: made by scripts/make_tables.py -->", "<!-- end of results -->"
MARKED = re.compile(re.escape(BEGIN).replace(r"\{\}", "([a-z-]+)") + ".*?" + re.escape(END), re.DOTALL)

# name in the markers -> which results, and what makes text of them
TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "pruning": ("node_pruning", readme.pruning),
    "methods": ("baselines", readme.baselines),
    "planted-edges": ("circuit_lasso", pages.planted_edges),
    "tracing-bias": ("causal_tracing", pages.tracing("bias", "occupation-bias")),
    "tracing-facts": ("causal_tracing", pages.tracing("fact", "fact-recall")),
    "distilled-small": ("distillation", pages.distilled_small),
    "distilled-smollm": ("distillation", pages.distilled_smollm),
    "smollm-edges": ("circuit_lasso", pages.smollm_edges),
    "debiased": ("debiasing", pages.debiased),
    "codebook-costs": ("concepts", studies.codebook_costs),
    "concept-effects": ("concepts", studies.concept_effects),
    "sums-models": ("attribution_graphs", studies.sums_models),
    "sums-circuits": ("attribution_graphs", studies.sums),
    "smollm-graph": ("attribution_graphs", studies.smollm_graph),
    "graph-growth": ("attribution_graphs", studies.growth),
    "shared-step": ("scale", studies.shared_step),
    "plans": ("scale", studies.plans),
}


def made(name: str, results: Path = RESULTS) -> str:
    """What stands between the markers of a name."""
    file, table = TABLES[name]
    text = table(json.loads((results / f"{file}.json").read_text()))
    return f"{BEGIN.format(name)}\n\n{text}\n\n{END}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    seen: set[str] = set()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        seen |= set(MARKED.findall(text))
        now = MARKED.sub(lambda found: made(found[1]), text)
        if args.check and now != text:
            raise SystemExit(f"{page.name} does not match the benchmark results: run python scripts/make_tables.py")
        page.write_text(now, encoding="utf-8")
    if unused := set(TABLES) - seen:
        raise SystemExit(f"no page has the tables {sorted(unused)}")


if __name__ == "__main__":
    main()
