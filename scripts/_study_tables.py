"""Tables of the docs' pages on concepts, attribution graphs and scale."""

from statistics import mean
from typing import Any

from _page_tables import table, wrapped

CODEBOOKS = {"kmeans": "k-means", "vqlc": "VQLC", "clvq": "CLVQ-VAE", "sae": "TopK autoencoder", "ward": "Ward"}
MODELS = {"smollm2": "SmolLM2", "minilm": "MiniLM"}


def codebook_costs(results: dict[str, Any]) -> str:
    """CPU seconds and memory of each method as states grow."""
    found = results["scaling"]
    sizes = sorted({int(key.split()[1]) for key in found})
    head = ["method (times k-means)", *(f"{n:,} states" for n in sizes)]
    rows = []
    for name, label in CODEBOOKS.items():
        cells = [_cost(found.get(f"{name} {n}")) for n in sizes]
        rows.append([label, *cells])
    return table(head, rows)


def concept_effects(results: dict[str, Any]) -> str:
    """What answers owe to the concepts of each method, beside controls that take out as much."""
    head = ["model, texts", "method", "active", "concept", "random direction", "random code", "class means"]
    rows = []
    for study, found in results["faithfulness"].items():
        model, texts = study.split()
        named = f"{MODELS[model]}, {texts}"
        for name, label in CODEBOOKS.items():
            if name not in found:
                continue
            part = found[name]
            controls = [part["controls"].get(control) for control in ("random direction", "random code", "class means")]
            cells = [f"{each['change']['mean']:.3f}" if each else "" for each in controls]
            ahead = part["controls"]["random direction"]["ahead"]
            first = controls[0] is not None and ahead["low"] > 0
            share = f"{part['active']} of {found['codes']}"
            rows.append(
                [
                    named,
                    label,
                    share,
                    _interval(part["concept"]["change"], bold=first),
                    *cells,
                    f"{part['concept']['flipped']['mean']:.2f}",
                    part["verdict"],
                    _seeds(part),
                ]
            )
            named = ""
    return table([*head, "flipped", "verdict", "of 5 seeds ahead of random; ARI"], rows)


def sums_models(results: dict[str, Any]) -> str:
    """Models, transcoders and graphs of the sums, mean and range over seeds."""
    seeds = results["sums"]["seeds"]
    rows = [
        ["accuracy of the model", _range([seed["accuracy"] for seed in seeds], "%")],
        *(
            [f"unexplained variance, layer {layer}", _range([seed["fvu"][layer] for seed in seeds], "%")]
            for layer in range(len(seeds[0]["fvu"]))
        ),
        ["replacement score of a graph", _range([seed["replacement"] for seed in seeds])],
        ["completeness score of a graph", _range([seed["completeness"] for seed in seeds])],
    ]
    return table(["", f"mean of {len(seeds)} seeds (range)"], rows)


def smollm_graph(results: dict[str, Any]) -> str:
    """The transcoders of SmolLM2, and one prompt's graph."""
    made, found = results["transcoders"], results["prompt"]
    fvu = sorted(made["fvu"])
    return wrapped(
        f"{made['tokens']:,} tokens, {made['steps']} steps, {made['cpu'] / 60:.0f} minutes of one core.",
        "They are rough: on tokens that none saw they leave",
        f"{fvu[len(fvu) // 2]:.0%} unexplained in the median layer, {fvu[0]:.0%} to {fvu[-1]:.0%} over all.",
        f"The graph of a prompt of {found['tokens']} tokens then takes",
        f"{found['seconds']:.0f} s and {found['peak GiB']:.1f} GiB:",
        f"{found['features']:,} of {found['active']:,} active features are nodes; replacement score",
        f"{found['replacement']:.2f}, completeness score {found['completeness']:.2f}; pruned to 80% of the influence,",
        f"{found['pruned nodes']:,} nodes and {found['pruned edges']:,} edges are left.",
    )


def sums(results: dict[str, Any]) -> str:
    """Circuits of features on sums, mean and range over seeds."""
    seeds = results["sums"]["seeds"]
    head = [
        "what is off is set to",
        "features",
        "exact match",
        "without them",
        "nothing on",
        "random",
        "top activation",
    ]
    rows = []
    for ablation in seeds[0]["circuits"]:
        runs = [seed["circuits"][ablation] for seed in seeds]
        greedy = [run for run in runs if run["flat tests"]]
        rows.append(
            [
                ablation,
                _range([run["share"] for run in runs], "%"),
                f"**{_range([run['exact match']['mean'] for run in runs])}**",
                *(_range([run[key] for run in runs]) for key in ("without it", "empty", "random")),
                *(_range([run["controls"][key] for run in runs]) for key in ("top activation", "top influence")),
                _range([run["controls"]["greedy"] for run in greedy]) if greedy else "",
                f"{mean(run['tests'] for run in runs):,.0f}"
                + (f" ({mean(run['flat tests'] for run in greedy):,.0f})" if greedy else ""),
            ]
        )
    return table([*head, "top influence", "greedy", "tests (greedy)"], rows)


def growth(results: dict[str, Any]) -> str:
    """Seconds against the size of a graph."""
    rows = [
        [f"{row['features']:,}", *(f"{row[key]:.2f}" for key in ("influence", "pruning", "coarsening"))]
        for row in results["growth"]["rows"]
    ]
    return table(["features", "influence", "pruning", "coarsening"], rows)


def plans(results: dict[str, Any]) -> str:
    """What was planned beside what was taken."""
    rows = []
    for row in results["plan"]:
        low, high = row["planned seconds"]
        rows.append(
            [
                row["method"],
                row["family"],
                f"{row['planned'] / 2**30:.2f}",
                f"{row['bytes'] / 2**30:.2f} ({row['planned'] / row['bytes'] - 1:+.0%})",
                f"{low:.1f} to {high:.1f}",
                f"{row['seconds']:.1f}",
            ]
        )
    return table(["method", "model", "GiB planned", "taken (off by)", "seconds planned", "taken"], rows)


def shared_step(results: dict[str, Any]) -> str:
    """Two processes beside one."""
    found = results["share"]
    one, two = (found["seconds"][count] for count in "12")
    return wrapped(
        f"`python benchmarks/scale.py share`: a step of node pruning on SmolLM2 with {found['batch']} pairs takes",
        f"{one:.1f} s in one process with one thread and {two:.1f} s in two of them,",
        f"on {results['machine']['cores']} cores that nothing else used:",
        f"**{found['times as fast']:.2f} times** as fast, and the same KL.",
    )


def _cost(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    over = f" ({found['over_kmeans']:.2f})" if found.get("over_kmeans", 1.0) != 1.0 else ""
    return f"{found['cpu']:,.0f} s{over}; {found['peak'] / 2**30:.2f} GiB"


def _seeds(part: dict[str, Any]) -> str:
    """How many seeds' concepts are ahead of random directions, and how alike their codes are."""
    if not part.get("seeds"):
        return ""
    ahead = sum(each["ahead"]["low"] > 0 for each in part["seeds"])
    return f"{ahead}; {mean(part['stability']):.2f}" if part.get("stability") else str(ahead)


def _interval(estimate: dict[str, float], *, bold: bool = False) -> str:
    stars = "**" if bold else ""
    return f"{stars}{estimate['mean']:.3f}{stars} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _range(values: list[float], form: str = "f") -> str:
    digits = 1 if form == "%" else 2
    ends = f" ({min(values):.{digits}{form}} to {max(values):.{digits}{form}})" if len(values) > 1 else ""
    return f"{mean(values):.{digits}{form}}{ends}"
