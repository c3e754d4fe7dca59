"""One model that answers questions: the same prompt again and again, with nodes scaled, removed or patched.

A question costs one forward pass: what stays the same (the untouched model's logits, the values that fill replaced
nodes) is kept from one question to the next. A session is not made for several threads at once: `desk` is for that.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from subcircuit.circuit import Circuit
from subcircuit.errors import DataError, NumericalError, SubcircuitError, UsageError
from subcircuit.intervention import ACTING, Fill, Reference, acting, masking
from subcircuit.metrics import kl
from subcircuit.sites import Kind, Node, Site
from subcircuit.subject import Prompts, Subject
from subcircuit.tasks._base import Task
from subcircuit.tasks._reading import Reading
from subcircuit.view.judging import judged, likeliest
from subcircuit.view.prompting import Case, Prompting, examples
from subcircuit.view.questions import FILLS, About, Answer, Change, Example, Question
from subcircuit.view.snippets import MEANS, Study, python
from subcircuit.view.stopping import stopping

__all__ = ["Session"]

EXAMPLES = 24  # pairs of the test split that are offered
CASES = 8  # prompts whose logits and values are kept
CHANGEABLE = frozenset(chain.from_iterable(ACTING.values()))
SAME = torch.tensor([0])  # the only row
Gates = dict[Site, Float[Tensor, "*batch unit"]]


class Session:
    """A model and a circuit in it.

    Args:
        task: where examples and means come from; None where it is not at hand.
        folder: of the circuit; code that repeats a question reads it again.
        absent: why there is no task.
    """

    def __init__(
        self, subject: Subject, circuit: Circuit, task: Task | None = None, *, folder: str = "", absent: str = ""
    ) -> None:
        self.subject, self.circuit, self.task, self.absent = subject, circuit, task, absent
        self.study = Study(folder, circuit.origin, subject.device.type, circuit.origin.reference)
        self.prompting = Prompting(subject)
        self.examples = self._examples()
        self._cases: OrderedDict[tuple[str, ...], Case] = OrderedDict()
        self._means: dict[Site, Tensor] = {}
        self._source: Prompts | None = None

    @property
    def about(self) -> About:
        """What a page needs to know before it asks."""
        kinds = [kind for kind in Kind if kind in CHANGEABLE and self._has(kind)]
        return About(
            model=self.subject.name,
            folder=self.study.folder,
            layers=len(self.subject),
            units={kind: self.subject.units(kind) for kind in kinds},
            fills={name: text for name, text in FILLS.items() if name != "mean" or self.task is not None},
            examples=self.examples,
            no_examples="" if self.examples else self.absent or "no pair of the task can be written as text",
            no_circuit=self._no_circuit(),
            longest=self.prompting.longest,
        )

    @torch.no_grad()
    def answer(self, question: Question, stopped: Callable[[], bool] = lambda: False) -> Answer:
        """Run the model with a question's changes.

        Raises DataError, UsageError or UnknownName for a prompt, an answer or a node that is not one; NumericalError
        for changes that end in infinity; Interrupted as soon as `stopped` says so, after at most one layer.
        """
        begun = time.perf_counter()
        with stopping(self.subject, stopped):
            case = self._case(question)
            logits = self._changed(question, case)
        if not logits.isfinite().all():
            raise NumericalError("the changes make the logits infinite", "use amounts nearer to 1")
        return self._answer(question, case, logits, begun)

    def _changed(self, question: Question, case: Case) -> Tensor:
        """The judged logits with all changes made. Values are recorded before the first of them."""
        changes = [change for change in question.changes if change.nodes]
        steps: list[tuple[str, Gates]] = [
            (change.fill, self._gates(change, question.positions, case)) for change in changes
        ]
        if question.start == "circuit":
            steps.insert(0, (self.study.start_fill, self._circuit()))
        values = [self._values(case, fill, question, gates) for fill, gates in steps]
        if not steps:
            return case.full
        with ExitStack() as stack:
            for (_, gates), filling in zip(steps, values, strict=True):
                stack.enter_context(masking(self.subject, gates, filling))
            return self.subject.logits(case.clean)

    def _answer(self, question: Question, case: Case, logits: Tensor, begun: float) -> Answer:
        answers = tuple(ids[0].tolist() if ids is not None else [] for ids in (case.right, case.wrong))
        right, wrong = answers
        length = case.clean.ids.shape[1]
        return Answer(
            tokens=case.tokens,
            corrupt_tokens=case.corrupt_tokens,
            at=int(case.clean.at),
            full=judged(case, case.full),
            counterfactual=judged(case, case.counterfactual) if case.counterfactual is not None else None,
            changed=judged(case, logits),
            kl=max(0.0, float(kl(case.full, logits))),
            top=likeliest(self.subject, logits, logits, case.full, question.top),
            top_before=likeliest(self.subject, case.full, logits, case.full, question.top),
            python=python(question, self.study, int(case.clean.at), length, (right, wrong)),
            milliseconds=1000 * (time.perf_counter() - begun),
        )

    def _case(self, question: Question) -> Case:
        key = (question.clean, question.corrupt, *question.answers, "", *question.wrong_answers)
        if key not in self._cases:
            self._cases[key] = self.prompting.case(question)
            if len(self._cases) > CASES:
                self._cases.popitem(last=False)
        self._cases.move_to_end(key)
        return self._cases[key]

    def _gates(self, change: Change, positions: list[int] | None, case: Case) -> Gates:
        """A change as a mask over the prompt's positions."""
        length = case.clean.ids.shape[1]
        outside = [at for at in positions or () if not 0 <= at < length]
        if outside:
            raise UsageError(f"there is no position {outside[0]}", f"the prompt has positions 0 to {length - 1}")
        gates: Gates = {}
        for node in (self._node(name) for name in change.nodes):
            gate = gates.setdefault(node.site, torch.ones(1, length, self.subject.units(node.site.kind)))
            gate[:, slice(None) if positions is None else positions, node.unit] = change.amount
        return gates

    def _node(self, name: str) -> Node:
        node = Node.parse(name)
        if node.site.kind not in CHANGEABLE or not self._has(node.site.kind):
            kinds = ", ".join(kind for kind in Kind if kind in CHANGEABLE and self._has(kind))
            raise UsageError(f"'{node.site.kind}' cannot be changed in {self.subject.name}", f"what can be: {kinds}")
        if node.site.layer >= len(self.subject):
            last = f"the last layer of {self.subject.name} is {len(self.subject) - 1}"
            raise UsageError(f"there is no node {name}: {last}", "give a layer from 0 on")
        units = self.subject.units(node.site.kind)
        if node.unit >= units:
            raise UsageError(
                f"there is no node {name}: {node.site} has {units} units", f"the last is {Node(node.site, units - 1)}"
            )
        return node

    def _circuit(self) -> Gates:
        if reason := self._no_circuit():
            raise UsageError(f"questions cannot start from this circuit: {reason}", "start from the model")
        return dict(self.circuit.mask())

    def _values(self, case: Case, fill: str, question: Question, gates: Gates) -> dict[Site, Tensor]:
        """What fills replaced nodes; recorded for sites that no earlier question has asked for."""
        sites = acting(gates)
        known = (
            self._means if fill == "mean" else case.values.setdefault((fill, question.other * (fill == "prompt")), {})
        )
        missing = [site for site in sites if site not in known]
        if missing:
            if fill == "mean":  # small once made, and slow to make: of all layers at once
                missing = self.subject.sites(*dict.fromkeys(site.kind for site in missing))
            known.update(self._recorded(case, fill, question, missing))
        return {site: known[site] for site in sites}

    def _recorded(self, case: Case, fill: str, question: Question, sites: list[Site]) -> Mapping[Site, Tensor]:
        source = self._mean_over() if fill == "mean" else None
        name: Fill = "corrupt" if fill == "prompt" else fill  # type: ignore[assignment]  # its own names are among them
        donor = self._donor(case, fill, question)
        return Reference(self.subject, name, case.clean, donor, sites, source=source, batch_size=MEANS["batch"])(SAME)

    def _donor(self, case: Case, fill: str, question: Question) -> Prompts:
        if fill == "prompt":
            reading = Reading(self.subject.tokenizer)
            return self.prompting.aligned(reading, question.clean, question.other, "other prompt")
        if fill == "corrupt" and case.corrupt is None:
            raise DataError("there is no counterfactual to take values from", "type one, or replace by zero")
        return case.corrupt or case.clean

    def _mean_over(self) -> Prompts:
        if self.task is None:
            raise DataError(f"there are no prompts to take a mean over: {self.absent}", "replace by zero")
        if self._source is None:
            self._source = self.task.pairs(self.subject.tokenizer, MEANS["n"], seed=0, split="train").clean
        return self._source

    def _examples(self) -> list[Example]:
        if self.task is None:
            return []
        try:
            pairs = self.task.pairs(self.subject.tokenizer, EXAMPLES, seed=0, split="test")
        except SubcircuitError as error:
            self.task, self.absent = None, error.message
            return []
        return examples(self.subject, pairs)

    def _no_circuit(self) -> str:
        if self.circuit.edges is not None:
            return "it is one of edges, and nodes are switched here"
        if self.circuit.origin.reference not in ("corrupt", "mean", "zero"):
            return f"its closed nodes take the {self.circuit.origin.reference} value, which one prompt does not have"
        if self.circuit.origin.method == "causal-tracing":
            return "it is a set of nodes to be replaced"
        return ""

    def _has(self, kind: Kind) -> bool:
        """Whether this family has a place where a gate of this kind acts."""
        return any(kind in line and at in self.subject.family.taps for at, line in ACTING.items())
