"""How soon the live view shows new logits when a slider moves: SmolLM2, a prompt of 15 tokens, a real browser.

The circuit is random: what a question costs depends on what is changed, not on which nodes were found.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from subcircuit import load
from subcircuit.circuit import Circuit, Origin
from subcircuit.sites import Kind, Site
from subcircuit.view import Change, Question, Session

__all__ = ["live"]

CLEAN = "When Mary and John went to the big store, John gave a drink to"
CORRUPT = "When Mary and John went to the big store, Mary gave a drink to"
CASES = {  # what is changed while the slider moves
    "one head, patched": (["19.head.2"], "corrupt"),
    "20 heads and 10 MLPs, patched": (
        [*(f"{layer}.head.{layer % 9}" for layer in range(10, 30)), *(f"{layer}.mlp" for layer in range(20, 30))],
        "corrupt",
    ),
    "every head, scaled": ([f"{layer}.head.{head}" for layer in range(30) for head in range(9)], "zero"),
}
MOVES = 20
# milliseconds from a change of the slider until the page shows the number it leads to
MOVE = """async (amount) => {
  const [slider, status] = [document.querySelector("#amount-0"), document.querySelector("#live-status")];
  const begun = performance.now();
  slider.value = amount;
  slider.dispatchEvent(new Event("input"));
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  do await frame(); while (status.dataset.busy !== "no");
  return [performance.now() - begun, Number(document.querySelector("#live-kl").value)];
}"""


def live(browser: Any, folder: Path) -> dict[str, Any]:
    """Milliseconds and how far the page's numbers are from the Python API's."""
    session = _session(folder)
    tokens = len(session.answer(Question(clean=CLEAN)).tokens)
    found: dict[str, Any] = {"tokens": tokens, "moves": MOVES, "load average before": round(os.getloadavg()[0], 1)}
    with _serving(folder) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.wait_for_selector("#live-mind", timeout=120_000)
        _type(page)
        for name, (nodes, fill) in CASES.items():
            found[name] = _case(page, session, nodes, fill)
            print(name, found[name], flush=True)
        page.close()
    return found


def _session(folder: Path) -> Session:
    subject = load("smollm2-135m")
    sites = subject.sites(Kind.BLOCK, Kind.ATTN, Kind.MLP, Kind.HEAD)
    kept = {site: torch.ones(subject.units(site.kind), dtype=torch.bool) for site in sites}
    about = {"model": subject.name, "revision": subject.revision, "family": "llama", "dtype": "float32", "task": "ioi"}
    made = {"method": "by hand", "settings": {}, "reference": "corrupt", "seed": 0, "pairs": {"train": 1}}
    scores: dict[Site, torch.Tensor] = {site: torch.rand(len(truth)) for site, truth in kept.items()}
    circuit = Circuit(scores, kept, Origin(**about, **made))
    circuit.save(folder)
    return Session(subject, circuit, folder=str(folder))


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "subcircuit", "view", str(folder), "--no-open", "--json", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "}\n")
        yield json.loads("".join(lines) + "}")["url"]
        process.kill()


def _type(page: Any) -> None:
    page.click("text=Type your own")
    for field, text in {"clean": CLEAN, "corrupt": CORRUPT, "answers": " Mary", "wrong": " John"}.items():
        page.fill(f"#{field}", text)
    page.click("#ask")
    page.wait_for_function("document.querySelectorAll('button.token').length < 17")
    page.wait_for_selector("#live-status[data-busy='no']")


def _case(page: Any, session: Session, nodes: list[str], fill: str) -> dict[str, float]:
    if page.locator("fieldset.set").count():
        page.click("text=Undo all")
    page.fill("#node", " ".join(nodes))
    page.press("#node", "Enter")
    page.wait_for_selector("#fill-0")
    page.select_option("#fill-0", fill)
    page.wait_for_timeout(300)
    page.wait_for_selector("#live-status[data-busy='no']")
    amounts = [round(0.05 * move, 2) for move in range(MOVES)]
    moved = [page.evaluate(MOVE, amount) for amount in amounts]
    away = [abs(shown - _expected(session, nodes, fill, at)) for at, (_, shown) in zip(amounts, moved, strict=True)]
    taken = [milliseconds for milliseconds, _ in moved]
    return {
        "median ms": round(statistics.median(taken), 1),
        "quickest ms": round(min(taken), 1),
        "slowest ms": round(max(taken), 1),
        "CPU ms of a question": round(_cost(session, nodes, fill), 1),
        "furthest KL from the Python API": max(away),
    }


def _cost(session: Session, nodes: list[str], fill: Any) -> float:
    """Milliseconds of all threads together, so that other programs on the machine do not count."""
    spent = []
    for move in range(MOVES):
        begun = time.process_time()
        _expected(session, nodes, fill, 0.05 * move)
        spent.append(1000 * (time.process_time() - begun))
    return statistics.median(spent)


def _expected(session: Session, nodes: list[str], fill: Any, amount: float) -> float:
    change = Change(nodes=nodes, amount=amount, fill=fill)
    return session.answer(Question(clean=CLEAN, corrupt=CORRUPT, changes=[change])).kl
