"""A real browser without a network, and reports opened in it as files."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from subcircuit.report import report

__all__ = ["Opened", "Opening", "browser", "opened"]

Opened = Callable[..., "Opening"]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARTEFACTS = Path(__file__).parent / "browser" / "artefacts"


@dataclass
class Opening:
    """A report in the browser, and what the browser had to say about it."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def number(self, selector: str) -> float:
        """The value of a `data` element, unrounded."""
        return float(self.page.get_attribute(selector, "value"))

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def unfold(self, summary: str = "") -> None:
        """Open what a summary hides, or all that is hidden, and wait for it: tables are made when they are opened."""
        if summary:
            self.page.click(f"text={summary}")
        else:
            self.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        self.page.locator("details[open]:not(:has(> :nth-child(2)))").first.wait_for(state="detached")

    def keep(self, name: str) -> None:
        """Leave a screenshot of the whole page among the artefacts."""
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=str(ARTEFACTS / f"{name}.png"), full_page=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Opened]:
    """A function that writes a report of run folders and opens it, ready to be read."""
    contexts = []

    def open_(*folders: Path, width: int = 1280, theme: str = "light") -> Opening:
        path = tmp_path / "report.html"
        path.write_text(report(*(str(folder) for folder in folders)), encoding="utf-8")
        view = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=view, color_scheme=theme, offline=True))
        found = Opening(contexts[-1].new_page())
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(path.as_uri())
        found.page.wait_for_selector("#app[data-ready]")
        return found

    yield open_
    for context in contexts:
        context.close()
