"""Judges of concepts: language models behind an OpenAI-compatible endpoint, whose replies are kept, or people's sheets.

A reply is asked for once: it is kept under a hash of endpoint, model and question, so that a run that broke off goes on
and a finished one costs nothing. The key comes from the environment and goes to the endpoint, nowhere else.
"""

import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcircuit.concepts.questions import Question
from subcircuit.errors import DataError, ResourceError, UsageError
from subcircuit.files import atomically
from subcircuit.progress import Progress, silent

__all__ = ["Endpoint"]

TRIES, PATIENCE = 3, 60.0  # per question; seconds
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Endpoint:
    """A model behind `url`/chat/completions.

    Raises, when asked, UsageError for a key that is not set, ResourceError for an endpoint that cannot be reached or
    refuses, DataError for a reply in another form.
    """

    url: str  # with its version, as in http://localhost:8000/v1
    model: str
    cache: Path
    key_variable: str = "OPENAI_API_KEY"  # of the environment; "" = no key is sent

    def answers(self, questions: Sequence[Question], *, progress: Progress = silent) -> list[int | None]:
        """A number for each; None where the reply has none in range."""
        self._key()
        found = []
        for done, question in enumerate(questions):
            progress(f"judge {self.model}", done, len(questions))
            found.append(_number(self._reply(question.text), question.choices))
        return found

    def _reply(self, text: str) -> str:
        name = hashlib.sha256(json.dumps([self.url, self.model, text]).encode()).hexdigest()
        path = self.cache / f"{name}.json"
        if path.exists():
            before: str = json.loads(path.read_text(encoding="utf-8"))["reply"]
            return before
        reply = self._asked(text)
        kept = json.dumps({"model": self.model, "question": text, "reply": reply})
        atomically(path, lambda to: to.write_text(kept, encoding="utf-8"))
        return reply

    def _asked(self, text: str) -> str:
        """Ask, again after a pause where the endpoint is busy."""
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(self._request(text), timeout=PATIENCE) as answer:
                    return _content(json.load(answer))
            except urllib.error.HTTPError as error:
                if error.code not in (429, 500, 502, 503, 504) or attempt == TRIES - 1:
                    raise ResourceError(
                        f"{self.url} answers {error.code} ({error.reason}) for {self.model}",
                        f"check the model's name and the key in {self.key_variable or 'the environment'}",
                    ) from error
            except (OSError, json.JSONDecodeError) as error:
                if attempt == TRIES - 1:
                    raise ResourceError(
                        f"{self.url} cannot be reached: {error}", "start again as before; the replies so far are kept"
                    ) from error
            time.sleep(0.5 * 2**attempt)
        raise AssertionError  # the last try returns or raises

    def _request(self, text: str) -> urllib.request.Request:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        return urllib.request.Request(address, json.dumps(body).encode(), headers)

    def _key(self) -> str:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"the endpoint '{self.url}' is no address", "give one as http://localhost:8000/v1")
        if not self.key_variable:
            return ""
        key = os.environ.get(self.key_variable, "")
        if not key:
            raise UsageError(
                f"there is no key in the environment's {self.key_variable}", "set it, or --key-variable '' for none"
            )
        return key


def _content(reply: Any) -> str:
    try:
        content = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError("the endpoint's reply has no choices[0].message.content", "is it OpenAI-compatible?") from error
    return str(content or "")


def _number(reply: str, choices: int) -> int | None:
    """The one number in a reply; None where there is none in range, or several that differ."""
    found = {int(digits) for digits in NUMBER.findall(reply)}
    (number,) = found if len(found) == 1 else (0,)
    return number if 1 <= number <= choices else None
