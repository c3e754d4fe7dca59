"""Take the pictures of README and docs in a real browser: a run's report, its prompts token by token, its live view.

python scripts/make_screenshots.py runs/demo

Writes report.png, tokens.png and view.png into docs/images. The run must be scored. The live view loads the run's
model; `--only report` leaves it out. Needs playwright and chromium.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from subcircuit.circuit import Circuit
from subcircuit.report import report
from subcircuit.sites import Kind, Node

FOLDER = Path(__file__).parent.parent / "docs" / "images"
WIDTH, MARGIN = 1180, 24  # pixels
CHANGED = 3  # heads that are switched off in the picture of the live view
LOAD = 300_000  # milliseconds that a model may take


def of_report(page: Any, run: Path) -> None:
    """From the top of the page to the map of heads and MLPs, and the prompts token by token."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(report(str(run)), encoding="utf-8")
        page.goto(path.as_uri())
        page.wait_for_selector("#app[data-ready]")
    page.screenshot(path=FOLDER / "report.png", full_page=True, clip=_box(0, _top(page, "#focus")))
    if page.locator("#tokens-view").count():
        page.select_option("#token-choice", page.get_attribute("#token-choice option[value^=row]", "value"))
        page.wait_for_timeout(200)
        top, end = (_top(page, each) for each in ("#tokens-view", "#tokens-view .focus"))
        page.screenshot(path=FOLDER / "tokens.png", full_page=True, clip=_box(top - MARGIN, end))


def of_view(page: Any, run: Path) -> None:
    """The first prompt, with the circuit's strongest heads switched to their values in its counterfactual."""
    with _serving(run) as url:
        page.goto(url)
        page.wait_for_selector("#live-mind", timeout=LOAD)
        page.fill("#node", " ".join(strongest(Circuit.load(run))))
        page.press("#node", "Enter")
        page.wait_for_timeout(300)
        page.wait_for_selector("#live-status[data-busy='no']")
        page.evaluate("document.activeElement.blur()")
        top, end = _top(page, "#live-view"), _top(page, "#live-view + *")
        page.screenshot(path=FOLDER / "view.png", full_page=True, clip=_box(top, end - MARGIN))


def strongest(circuit: Circuit) -> list[str]:
    """The kept heads of the largest scores; the MLPs, where there are no heads."""
    kind = Kind.HEAD if any(site.kind is Kind.HEAD for site in circuit.kept) else Kind.MLP

    def score(node: Node) -> float:
        return float(circuit.scores[node.site][node.unit])

    return [str(node) for node in sorted(circuit.nodes(kind), key=score, reverse=True)[:CHANGED]]


def _top(page: Any, selector: str) -> float:
    found: float = page.evaluate("(one) => document.querySelector(one).getBoundingClientRect().top + scrollY", selector)
    return found


def _box(top: float, end: float) -> dict[str, float]:
    return {"x": 0, "y": top, "width": WIDTH, "height": end - top}


@contextmanager
def _serving(run: Path) -> Iterator[str]:
    """The address of a live view that runs meanwhile."""
    command = [sys.executable, "-m", "subcircuit", "view", str(run), "--no-open", "--json", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = "".join(iter(process.stdout.readline, "}\n"))
        try:
            yield json.loads(text + "}")["url"]
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a scored run folder")
    parser.add_argument("--only", choices=("report", "view"), help="take these pictures only")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        if given.only != "view":
            of_report(page, given.run)
        if given.only != "report":
            of_view(page, given.run)
        browser.close()


if __name__ == "__main__":
    main()
