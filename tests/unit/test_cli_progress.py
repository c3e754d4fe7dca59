"""Progress as it is drawn: bars on a terminal, lines elsewhere, nothing when quiet."""

import io
import re

from rich.console import Console

from subcircuit.cli._progress import Lines, shown
from subcircuit.progress import Progress


def told(tell: Progress) -> None:
    for step in range(3):
        tell("gates", step + 1, 10, kl=0.1234, cost=0.5)
    tell("polish", 1, 4, kl=0.1)


def test_lines_give_phase_facts_and_the_time_left() -> None:
    out = io.StringIO()
    told(Lines(Console(file=out), every=0.0))
    lines = out.getvalue().splitlines()
    assert lines[0] == "gates 1/10, KL 0.123  size 0.5"  # one step has no pace yet
    assert lines[2] == "gates 3/10, KL 0.123  size 0.5, 0 s left"
    assert lines[3] == "polish 1/4, KL 0.1"


def test_lines_are_rare() -> None:
    out = io.StringIO()
    with shown(Console(file=out)) as tell:
        told(tell)
    assert out.getvalue() == ""  # half a minute is not over


def test_a_terminal_has_a_bar_per_phase_and_a_family_one_per_round() -> None:
    out = io.StringIO()
    with shown(Console(file=out, force_terminal=True, width=120)) as tell:
        told(tell)
        tell("gates", 1, 5, kl=0.3)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
    last = [line for line in plain.splitlines() if line.strip()][-3:]
    assert [line.split()[0] for line in last] == ["gates", "polish", "gates"]
    assert "10/10" in last[0] and "KL 0.123" in last[0]  # another phase has begun
    assert "4/4" in last[1] and "1/5" in last[2]


def test_quiet_is_silent() -> None:
    out = io.StringIO()
    with shown(Console(file=out, force_terminal=True), quiet=True) as tell:
        told(tell)
    assert out.getvalue() == ""
