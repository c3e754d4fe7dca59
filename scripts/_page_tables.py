"""Tables of the docs' pages, each of one file of results."""

from collections.abc import Callable, Iterable, Sequence
from statistics import mean
from textwrap import fill
from typing import Any

TRACERS = {
    "gates": "this search",
    "greedy": "greedy (the oracle)",
    "dcm": "DCM-like",
    "singles": "top-k singles",
    "random": "random",
}
SOLVERS = {
    "eap": "EAP",
    "eap-ig": "EAP-IG",
    "circuit-lasso": "**circuit-lasso**",
    "circuit-lasso paper": "preset `paper`",
}


def planted_edges(results: dict[str, Any]) -> str:
    """CircuitLasso's edges beside EAP's and EAP-IG's, where the true ones are known."""
    head = ["method", "AUROC", "AUPRC", "wrong edges: as many as are true", "fewest within KL", "BIC", "seconds"]
    rows = []
    for name, label in SOLVERS.items():
        found = results["mean"][name]
        seconds = found["seconds"]
        collecting = f" ({seconds['collect']:.2f} of it collecting)" if "collect" in seconds else ""
        rows.append(
            [
                label,
                f"{found['auroc']:.3f}",
                f"{found['auprc']:.3f}",
                f"{found['shd_oracle']:.2f}",
                f"{found['shd_budget']:.2f}",
                f"{found['shd_bic']:.2f}" if "shd_bic" in found else "",
                f"{seconds['total']:.2f}{collecting}",
                f"{seconds['of_eap_ig']:.2f}",
            ]
        )
    return table([*head, "of EAP-IG's"], rows)


def smollm_edges(results: dict[str, Any]) -> str:
    """One sentence on a real model."""
    found = results["smollm2"]
    size, kl, rival = found["sizes"]["edge"], found["kl"], found["attribution"]
    return wrapped(
        f"On SmolLM2-135M and ioi it keeps {size['kept']:,} of {size['total']:,} edges:",
        f"KL {kl['mean']:.2f} [{kl['low']:.2f}, {kl['high']:.2f}] on {found['pairs']} test pairs,",
        f"where as many edges by EAP have {rival['mean']:.3f}, and at random, at best, {min(found['random']):.2f}.",
        f"`score` says *{found['verdict']}*.",
    )


def debiased(results: dict[str, Any]) -> str:
    """The classifiers of the tutorial."""
    rows = [
        [name, *(f"{row[key]:.2f}" for key in ("label", "spurious", "worst"))] for name, row in results["rows"].items()
    ]
    head = ["classifier", "label", "spurious", "worst group"]
    told = f"{results['picked']} features were picked of {results['looked']} that were looked at."
    return f"{table(head, rows)}\n\n{told}"


def tracing(part: str, task: str) -> Callable[[dict[str, Any]], str]:
    """Effects of sets of heads by their size."""

    def made(results: dict[str, Any]) -> str:
        curves = {name: results.get(f"{part} head {name}", {}).get("curve", []) for name in TRACERS}
        sizes = [point["k"] for point in curves["gates"]]
        best = {k: max(_effect(curve, k) for curve in curves.values()) for k in sizes}
        rows = []
        for name, curve in curves.items():
            if not curve:
                continue
            effects = [_effect(curve, k) for k in sizes]
            cells = [
                ""
                if effect == -9e9
                else f"**{effect:.2f}**"
                if f"{effect:.2f}" == f"{best[k]:.2f}"
                else f"{effect:.2f}"
                for k, effect in zip(sizes, effects, strict=True)
            ]
            passes, last = curve[-1]["passes"], curve[-1]["k"]
            told = "" if name == "random" else f"{passes:,}" + (f" to {last}" if last < sizes[-1] else "")
            rows.append([TRACERS[name], *cells, told])
        return table([f"{task}, heads", *map(str, sizes), "passes, in all"], rows)

    return made


def distilled_small(results: dict[str, Any]) -> str:
    """Every arm on the model of two layers."""
    arms = results["arms"]
    head = ["arm", "KL(teacher, student), nats", "gap closed", "at unsure tokens", "at sure ones"]
    before = arms["student"]["closeness"]
    rows = [_closeness("extracted, not taught", [before], "", [])]
    rows[0] += [f"{before['kl_high']:.3f}", f"{before['kl_low']:.3f}", "", f"{before['perplexity']:.2f}"]
    for name, runs in arms["taught"].items():
        seeds = [run for run in runs if "closeness" in run]
        found = [run["closeness"] for run in seeds]
        rows.append(
            [
                *_closeness(name, found, f"{_recovered(runs):.0%}", arms["taught"].values()),
                *(f"{mean(each[key] for each in found):.3f}" for key in ("kl_high", "kl_low")),
                f"{mean(run['on its own text']['reverse_kl']['mean'] for run in seeds):.3f}",
                f"{mean(each['perplexity'] for each in found):.2f}",
            ]
        )
    return table([*head, "reverse KL on its own text", "perplexity"], rows)


def distilled_smollm(results: dict[str, Any]) -> str:
    """Every arm on the student of SmolLM2."""
    part = results["smollm2"]
    head = [
        "arm",
        "KL(teacher, student), nats",
        "gap closed",
        "reverse KL on its own text",
        "entropy there",
        "diversity",
    ]
    whole = part["extracted"]["closeness"]["kl"]["mean"]
    arms = {"extracted, not taught": [part["extracted"]], "begun with": [part["begun with"]], **part["taught"]}
    rows = []
    for name, runs in arms.items():
        found = [run["closeness"] for run in runs]
        own = [run["on its own text"] for run in runs]
        closed = 1 - mean(each["kl"]["mean"] for each in found) / whole
        rows.append(
            [
                *_closeness(name, found, f"{closed:.0%}" if closed else "", part["taught"].values()),
                f"{mean(each['reverse_kl']['mean'] for each in own):.2f}",
                f"{mean(each['entropy'] for each in own):.2f}",
                f"{mean(run['diversity'] for run in runs):.2f}",
                *(f"{mean(run['tasks'][task]['accuracy']['mean'] for run in runs):.2f}" for task in runs[0]["tasks"]),
            ]
        )
    return table([*head, *part["extracted"]["tasks"]], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") for cells in lines)


def wrapped(*parts: str) -> str:
    """A paragraph as wide as the pages are."""
    return fill(" ".join(parts), 120, break_long_words=False, break_on_hyphens=False)


def _effect(curve: Sequence[dict[str, Any]], k: int) -> float:
    return next((float(point["effect"]["mean"]) for point in curve if point["k"] == k), -9e9)


def _recovered(runs: Sequence[dict[str, Any]]) -> float:
    return next(float(run["recovered"]) for run in runs if "recovered" in run)


def _closeness(name: str, found: Sequence[dict[str, Any]], closed: str, arms: Iterable[Sequence[Any]]) -> list[str]:
    """The arm, its KL with the outermost ends of the seeds' intervals, and the share of the gap that it closed."""
    digits = 3 if found[0]["kl"]["mean"] < 1 else 2
    kl = mean(each["kl"]["mean"] for each in found)
    best = [mean(run["closeness"]["kl"]["mean"] for run in runs if "closeness" in run) for runs in arms]
    stars = "**" if best and kl == min(best) else ""
    low, high = min(each["kl"]["low"] for each in found), max(each["kl"]["high"] for each in found)
    return [name, f"{stars}{kl:.{digits}f}{stars} [{low:.{digits}f}, {high:.{digits}f}]", closed]
