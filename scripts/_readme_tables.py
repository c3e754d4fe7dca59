"""The README's tables, of `node_pruning.json` and `baselines.json`."""

from typing import Any


def pruning(results: dict[str, Any]) -> str:
    machine = results["machine"]
    curves = {name.removeprefix("curve "): rows for name, rows in results.items() if name.startswith("curve ")}
    first = next(iter(curves.values()))[0]
    lines = [
        f"SmolLM2-135M-Instruct, {first['pairs']} test prompt pairs per task, with templates or fillers that",
        "the search never saw; hard masks; closed nodes take their value from the corrupted prompt. KL is",
        "KL(full || circuit) in nats with its 95% bootstrap interval. *Attribution* (one attribution patching",
        f"pass), *integrated gradients* and *best random* (of {len(first['random'])}) are the KL of circuits of the",
        "same size per granularity. *Budget*: the KL allowed on validation prompts.",
        "",
        "| task | budget | heads | channels | neurons | KL | attribution | integrated gradients | best random "
        "| faithfulness | accuracy (full) | exact match |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
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
        f"{point['budget']:g}",
        *share,
        _interval(kl, bold=kl["mean"] < min(rivals)),
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


def baselines(results: dict[str, Any]) -> str:
    """Methods side by side, as far as they have been measured; of a task the smallest circuit first."""
    points = {name: point for name, point in results.items() if "origin" in point}
    tasks = list(dict.fromkeys(map(_task, points)))
    smallest_first = sorted(points, key=lambda name: (tasks.index(_task(name)), points[name]["weights"]))
    points = {name: points[name] for name in smallest_first}
    first = next(iter(points.values()))
    budget = first["origin"]["settings"]["kl"]
    lines = [
        f"Methods side by side: the smallest circuit that each finds within a KL of {budget:g} nats on validation",
        f"prompts, scored on the same {first['pairs']} test prompt pairs. *Weights*: the share of the layers' weights",
        "that belongs to what is kept; of a circuit of edges, to the nodes that they join. *Heads in common*: the",
        "Jaccard index with node pruning's heads, its 95% interval over heads, and its mean for random sets of the",
        "same sizes. *Rho*: the rank correlation of all heads, effects by their magnitudes.",
        "",
        "| task | method | kept | weights | KL | exact match | accuracy (full) | heads in common | rho | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_method(name, point, results) for name, point in points.items()),
        "",
        "Measured by `python benchmarks/baselines.py`; all figures in "
        "[`benchmarks/results/baselines.json`](benchmarks/results/baselines.json).",
    ]
    return "\n".join(lines)


def _task(name: str) -> str:
    """Of a result that is named "ioi random"."""
    return name.partition(" ")[0]


def _method(name: str, point: dict[str, Any], results: dict[str, Any]) -> str:
    task, method = name.split(" ")
    circuit, sizes = point["circuit"], point["sizes"]
    kinds = [kind for kind in ("edge", "head", "channel", "neuron") if kind in sizes]
    cells = [
        task,
        method,
        ", ".join(f"{sizes[kind]['kept'] / sizes[kind]['total']:.1%} {kind}s" for kind in kinds),
        f"{point['weights']:.1%}",
        _interval(circuit["kl"], bold=True),
        f"{circuit['exact_match']['mean']:.2f}",
        f"{circuit['accuracy']['mean']:.2f} ({point['full']['accuracy']['mean']:.2f})",
        *_in_common(method, results.get(f"{task} together", {"together": []})["together"]),
        f"{point['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _in_common(method: str, pairs: list[dict[str, Any]]) -> tuple[str, str]:
    """With node pruning; nothing for node pruning itself."""
    found = [pair["kinds"]["head"] for pair in pairs if (pair["first"], pair["second"]) == ("node-pruning", method)]
    if not found:
        return "", ""
    (heads,) = found
    rho = heads["spearman_magnitude"]
    alike = f"{_interval(heads['jaccard'])} ({heads['by_chance']:.2f})" if heads["jaccard"] else "no heads"
    return alike, "undefined" if rho is None else f"{rho:.2f}"


def _interval(estimate: dict[str, float], *, bold: bool = False) -> str:
    stars = "**" if bold else ""
    return f"{stars}{estimate['mean']:.2f}{stars} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
