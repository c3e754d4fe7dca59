"""A circuit's model, live: questions about it with nodes scaled, removed or patched, answered one by one.

`Session` answers in Python; `server` is the same over HTTP, for the page of a report, on this machine only.
"""

from subcircuit.view.questions import Answer, Change, Question
from subcircuit.view.session import Session

__all__ = ["Answer", "Change", "Question", "Session"]
