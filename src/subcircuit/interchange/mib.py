"""Submissions to the circuit track of the Mechanistic Interpretability Benchmark (Mueller et al. 2025).

A submission is a folder with a folder per task and model, `ioi_gpt2` or `arc-easy_llama3`. Each holds one file of
scores, or one file per size that says which edges are in. The benchmark also takes .pt files, which may run code when
they are read; here it is JSON only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from subcircuit.circuit import Circuit
from subcircuit.errors import DataError, SubcircuitError, UnknownName
from subcircuit.interchange.eap_ig import Graph, read_eap_ig, write_eap_ig
from subcircuit.wiring import Wiring

__all__ = ["CELLS", "MODELS", "Model", "Problem", "cell_of", "check_submission", "write_submission"]

SCORES = "importances.json"
PERCENTAGES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # of the edges, one file each; an empty circuit may be added


@dataclass(frozen=True)
class Model:
    """A model of the benchmark, with a key and a value for every head."""

    hub: str
    layers: int
    heads: int
    d_model: int

    @property
    def wiring(self) -> Wiring:
        return Wiring(self.layers, self.heads, self.heads)


MODELS: Mapping[str, Model] = {
    "gpt2": Model("openai-community/gpt2", 12, 12, 768),
    "qwen2.5": Model("Qwen/Qwen2.5-0.5B", 24, 14, 896),
    "gemma2": Model("google/gemma-2-2b", 26, 8, 2304),
    "llama3": Model("meta-llama/Llama-3.1-8B", 32, 32, 4096),
}
CELLS = (
    *("ioi_gpt2", "ioi_qwen2.5", "ioi_gemma2", "ioi_llama3"),
    *("mcqa_qwen2.5", "mcqa_gemma2", "mcqa_llama3"),
    *("arithmetic-addition_llama3", "arithmetic-subtraction_llama3"),
    *("arc-easy_gemma2", "arc-easy_llama3", "arc-challenge_llama3"),
)


@dataclass(frozen=True)
class Problem:
    """Something the benchmark would refuse, or not count."""

    where: str
    cause: str
    cure: str = ""


def cell_of(circuit: Circuit) -> str:
    """The benchmark's name of a circuit's task and model. Raises UnknownName where it has none."""
    names = {model.hub: short for short, model in MODELS.items()} | {"gpt2": "gpt2"}
    cell = f"{circuit.origin.task.replace('_', '-')}_{names.get(circuit.origin.model, circuit.origin.model)}"
    if cell not in CELLS:
        raise UnknownName("task and model of the benchmark", cell, CELLS)
    return cell


def write_submission(circuit: Circuit, folder: str | Path, wiring: Wiring, *, d_model: int, cell: str = "") -> Path:
    """Add a circuit's scores to a submission folder; returns the file.

    Args:
        cell: the benchmark's name of the task and the model; by default from the circuit's origin.

    Raises UnknownName for a cell that the benchmark does not have, UsageError for a circuit it has no form for.
    """
    cell = cell or cell_of(circuit)
    if cell not in CELLS:
        raise UnknownName("task and model of the benchmark", cell, CELLS)
    path = Path(folder) / cell / SCORES
    write_eap_ig(circuit, path, wiring, d_model=d_model)
    return path


def check_submission(folder: str | Path) -> list[Problem]:
    """Everything that is wrong with a submission folder; an empty list means that the benchmark can read it.

    Raises DataError when there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}", "give the folder that holds ioi_gpt2 and the like")
    cells = sorted(path for path in folder.iterdir() if path.is_dir())
    problems = [problem for cell in cells for problem in _check_cell(cell)]
    known = [cell.name for cell in cells if cell.name in CELLS]
    for what, part in (("task", 0), ("model", 1)):
        found = sorted({name.split("_")[part] for name in known})
        if len(found) < 2:
            there = ", ".join(found) or "none"
            problems.append(
                Problem(str(folder), f"two {what}s at least are required; there is {there}", "add a folder")
            )
    return problems


def _check_cell(cell: Path) -> list[Problem]:
    if cell.name not in CELLS:
        return [Problem(str(cell), "no task and model of the benchmark", f"name it one of: {', '.join(CELLS)}")]
    unread = sorted(cell.glob("*.pt"))
    problems = [
        Problem(str(path), "a .pt file, which is not opened here: it may run code", "write it as .json")
        for path in unread
    ]
    files, graphs = sorted(cell.glob("*.json")), {}
    model = MODELS[cell.name.split("_")[1]]
    for path in files:
        try:
            graphs[path] = read_eap_ig(path, model.wiring, d_model=model.d_model)
        except SubcircuitError as error:
            problems.append(Problem(str(path), error.message, error.cure))
    if len(files) + len(unread) == 1:
        return problems + [problem for path, graph in graphs.items() for problem in _check_scores(path, graph)]
    if len(files) + len(unread) not in (len(PERCENTAGES), len(PERCENTAGES) + 1):
        count, sizes = len(files) + len(unread), ", ".join(f"{each:g}" for each in PERCENTAGES)
        cure = f"one file of scores, or one per size: {sizes} percent of the edges"
        return [*problems, Problem(str(cell), f"{count} circuit files", cure)]
    return problems + (_check_sizes(cell, graphs.values()) if len(graphs) == len(files) and not unread else [])


def _check_scores(path: Path, graph: Graph) -> list[Problem]:
    tables = [graph.edges.scores, *(graph.nodes or {}).values()]
    if any(table.any() for table in tables):
        return []
    return [Problem(str(path), "every score is 0, so that it ranks nothing", "write the scores of a method")]


def _check_sizes(cell: Path, graphs: Iterable[Graph]) -> list[Problem]:
    """The files in the order of their sizes, each within its own percentage and above the one before."""
    shares = sorted(100 * float(each.edges.kept.sum() / each.edges.wiring.allowed.sum()) for each in graphs)
    limits = PERCENTAGES if len(shares) == len(PERCENTAGES) else (0, *PERCENTAGES)
    return [
        Problem(
            str(cell), f"no circuit for {limit:g}% of the edges: the nearest has {share:.4g}%", "cut it to the size"
        )
        for share, limit in zip(shares, limits, strict=True)
        if share > limit
    ]
