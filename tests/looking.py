"""Pages of the live view in a real browser, whatever they are about."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from chromium import Opening

__all__ = ["Looking", "looking"]

SLIDE = """([selector, value]) => {
  const slider = document.querySelector(selector);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  slider.dispatchEvent(new Event("change"));
}"""


class Looking(Opening):
    """A page on the live view."""

    def settle(self) -> None:
        """Until everything that was asked is answered."""
        self.page.wait_for_timeout(60)
        self.page.wait_for_selector("#live-status[data-busy='no']")

    def move(self, slider: str, value: float) -> None:
        self.page.evaluate(SLIDE, [slider, value])
        self.settle()


L = TypeVar("L", bound=Looking)


@contextmanager
def looking(browser: Any, own: str, kind: type[L]) -> Iterator[Any]:
    """A function that opens the page at `own`, or another one, and waits for its first answer."""
    contexts = []

    def open_(width: int = 1280, theme: str = "light", url: str = "") -> L:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme))
        found = kind(contexts[-1].new_page())
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(url or own)
        found.page.wait_for_selector("#live-mind", state="attached")
        found.settle()
        return found

    yield open_
    for context in contexts:
        context.close()
