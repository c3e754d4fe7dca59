"""Write the README's results from `benchmarks/results/node_pruning.json`.

python scripts/make_tables.py            rewrite the section between the markers
python scripts/make_tables.py --check    fail when it is not what the results say
"""

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results: made by scripts/make_tables.py -->", "<!-- end of results -->"


def section(results: dict[str, Any]) -> str:
    machine = results["machine"]
    curves = {name.removeprefix("curve "): rows for name, rows in results.items() if name.startswith("curve ")}
    first = next(iter(curves.values()))[0]
    lines = [
        f"SmolLM2-135M-Instruct, {first['pairs']} test prompt pairs per task, with templates or fillers that",
        "the search never saw; hard masks; closed nodes take their value from the corrupted prompt. KL is",
        "KL(full || circuit) in nats with its 95% bootstrap interval. *Attribution* (one attribution patching",
        f"pass), *integrated gradients* and *best random* (of {len(first['random'])}) are the KL of circuits of the",
        "same size per granularity. The rows of a task are one nested family.",
        "",
        "| task | heads | channels | neurons | KL | attribution | integrated gradients | best random "
        "| faithfulness | accuracy (full) | exact match |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(name, point) for name, points in curves.items() for point in points),
        "",
        *_step(results["step"]),
        "",
        f"Measured on {machine['cores']} cores ({machine['cpu']}, {machine['memory_gb']:.0f} GB), torch "
        f"{machine['versions']['torch']}, float32, by `python benchmarks/node_pruning.py`; all figures in "
        "[`benchmarks/results/node_pruning.json`](benchmarks/results/node_pruning.json).",
    ]
    return "\n".join(lines)


def _row(name: str, point: dict[str, Any]) -> str:
    circuit, sizes = point["circuit"], point["sizes"]
    share = [f"{sizes[kind]['kept'] / sizes[kind]['total']:.1%}" for kind in ("head", "channel", "neuron")]
    rivals = [point[rival]["kl"]["mean"] for rival in ("attribution", "integrated")]
    rivals.append(min(draw["kl"]["mean"] for draw in point["random"]))
    kl, faithful = circuit["kl"], circuit["faithfulness"]
    cells = [
        name,
        *share,
        f"**{kl['mean']:.2f}** [{kl['low']:.2f}, {kl['high']:.2f}]",
        *(f"{value:.2f}" for value in rivals),
        f"{faithful['mean']:.2f}" if faithful else "undefined",
        f"{circuit['accuracy']['mean']:.2f} ({point['full']['accuracy']['mean']:.2f})",
        f"{circuit['exact_match']['mean']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _step(step: dict[str, Any]) -> list[str]:
    time, memory = step["time"]["ratio"], step["memory"]
    return [
        "| one optimisation step, over a plain forward + backward of the same batch | time | peak memory |",
        "|---|---|---|",
        f"| corrupted activations cached ({step['time']['cache_bytes'] / 2**20:.0f} MiB for {step['time']['batch']} "
        f"pairs) | {time['cached']:.2f} | {memory['ratio']['cached']:.2f} |",
        f"| recomputed | {time['recomputed']:.2f} | {memory['ratio']['recomputed']:.2f} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    readme = ROOT / "README.md"
    results = json.loads((ROOT / "benchmarks/results/node_pruning.json").read_text())
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    made = f"{head}{BEGIN}\n\n{section(results)}\n\n{END}{tail}"
    if args.check and made != text:
        raise SystemExit("README.md does not match the benchmark results: run python scripts/make_tables.py")
    readme.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
