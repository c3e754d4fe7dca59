"""How large a report is, how soon it is ready, and how fast the size slider answers, in a real browser.

python benchmarks/viewer.py      writes benchmarks/viewer.json
python benchmarks/viewer.py live      of the live view, into its part "live"

The circuits are random, of the shapes of GPT-2 and of models of 8B and 70B parameters: scores of noise are the worst
case for compression. Needs playwright and chromium.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _live import live
from _record import machine
from playwright.sync_api import sync_playwright

from subcircuit.circuit import Circuit, Origin, tidy
from subcircuit.edge_tables import Edges, best, live_nodes, node_scores
from subcircuit.report import report
from subcircuit.sites import Kind, Site
from subcircuit.wiring import Wiring

OUT = Path(__file__).parent / "viewer.json"
KEPT, ABOVE = 0.05, 1.645  # share of nodes or edges in each circuit, and where it begins in scores of unit variance
MOVES = 20
# milliseconds from a change of the slider until the browser has drawn again
MOVE = """async (at) => {
  const slider = document.querySelector("#size");
  const begun = performance.now();
  slider.value = at;
  slider.dispatchEvent(new Event("input"));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - begun;
}"""


def nodes(layers: int, heads: int, neurons: int) -> Circuit:
    """A random circuit of heads and neurons."""
    generator = torch.Generator().manual_seed(0)
    units = {Kind.BLOCK: 1, Kind.ATTN: 1, Kind.MLP: 1, Kind.HEAD: heads, Kind.NEURON: neurons}
    scores = {
        Site(layer, kind): torch.randn(count, generator=generator)
        for layer in range(layers)
        for kind, count in units.items()
    }
    kept = {site: score > (ABOVE if len(score) > 1 else -torch.inf) for site, score in scores.items()}
    return Circuit(scores, tidy(kept), _origin())


def edges(layers: int, heads: int, groups: int, kept: int = 0) -> Circuit:
    """A random circuit of edges."""
    wiring = Wiring(layers, heads, groups)
    scores = torch.randn(wiring.allowed.shape, generator=torch.Generator().manual_seed(0)) * wiring.allowed
    table = Edges(wiring, scores, best(wiring, scores, kept or int(KEPT * wiring.allowed.sum())))
    return Circuit(node_scores(wiring, scores), live_nodes(wiring, table.kept), _origin(), table)


# each case is a report of one run or more; a circuit's own edges are all in it, of the others those up to 200,000
CASES = {
    "GPT-2, 12 x 3,072 neurons": lambda: [nodes(12, 12, 3072)],
    "GPT-2, its edges": lambda: [edges(12, 12, 12)],
    "8B, 32 x 14,336 neurons": lambda: [nodes(32, 32, 14336)],
    "8B, its edges": lambda: [edges(32, 32, 8)],
    "8B, 32 x 14,336 neurons and 200,000 edges": lambda: [nodes(32, 32, 14336), edges(32, 32, 8)],
    "13B, a circuit of 2,000,000 edges": lambda: [edges(40, 40, 40, 2_000_000)],
    "70B, 80 x 28,672 neurons": lambda: [nodes(80, 64, 28672)],
}


def _origin() -> Origin:
    about = {"model": "random", "revision": "", "family": "llama", "dtype": "float32", "task": "none"}
    made = {"method": "by hand", "settings": {"rank": "score"}, "reference": "corrupt", "seed": 0}
    return Origin(**about, **made, pairs={"train": 1})


def measure(browser: Any, circuits: list[Circuit], folder: Path) -> dict[str, float]:
    """Bytes, and seconds as the reader has them: from opening the file to a page that is drawn."""
    runs = [str(folder / f"run-{number}") for number in range(len(circuits))]
    for run, circuit in zip(runs, circuits, strict=True):
        circuit.save(run)
    begun = time.perf_counter()
    html = report(*runs)
    written = time.perf_counter() - begun
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri())
    page.wait_for_selector("#app[data-ready]", timeout=120_000)
    ready = float(page.get_attribute("#app", "data-ready")) / 1000
    page.evaluate(MOVE, 300)
    moves = [page.evaluate(MOVE, 100 + 20 * move) for move in range(MOVES)]
    page.close()
    return {
        "megabytes": round(len(html) / 1e6, 2),
        "seconds to write": round(written, 2),
        "seconds until ready": round(ready, 2),
        "slider, median ms": round(statistics.median(moves), 1),
        "slider, slowest ms": round(max(moves), 1),
    }


def main() -> None:
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    only_live = sys.argv[1:] == ["live"]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        program = shutil.which("chromium") or "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        if only_live:
            found["live"] = {"machine": machine(), **live(browser, Path(folder))}
            OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            return
        found |= {"machine": machine(), "browser": f"chromium {browser.version}, headless"}
        for number, (name, make) in enumerate(CASES.items()):
            found[name] = measure(browser, make(), Path(folder) / str(number))
            print(name, found[name], flush=True)
            OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
