"""One model that answers questions about the features of its attribution graph: some switched off, or scaled.

A question costs a pass, and one for each random draw: the runs that say what errors and other values are stay the same.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from subcircuit.errors import DataError, NumericalError, UsageError
from subcircuit.features.transcoders import Transcoders
from subcircuit.graphs.graph import Graph
from subcircuit.graphs.prediction import predicted
from subcircuit.graphs.records import GraphFile
from subcircuit.graphs.switching import Means, Switches, features_on, mean_features
from subcircuit.metrics import kl
from subcircuit.prompts import Prompts
from subcircuit.subject import Subject
from subcircuit.tasks._base import Pairs
from subcircuit.tasks._reading import Reading
from subcircuit.view.graph_questions import FILLS, Fill, GraphAbout, GraphAnswer, GraphQuestion, TargetChange
from subcircuit.view.judging import likeliest
from subcircuit.view.prompting import Prompting
from subcircuit.view.stopping import stopping

__all__ = ["GraphSession"]

KEPT = 4  # fills whose runs are kept
NEAR = 0.05  # of the largest activation: how far one may be from the graph's, which another precision may have made
SEED = 0  # of random features: as many draws as are asked for, and the same ones each time
Logits = Float[Tensor, "1 vocab"]
Chosen = Bool[Tensor, " feature"]


class GraphSession:
    """A model with its transcoders, and a graph of it.

    Args:
        texts: of which features' means are taken; without them there is no fill "mean".

    Raises:
        DataError for transcoders that are not the graph's.
    """

    def __init__(
        self, subject: Subject, transcoders: Transcoders, file: GraphFile, graph: Graph, *, texts: Prompts | None = None
    ) -> None:
        self.subject, self.transcoders, self.file, self.graph = subject, transcoders, file, graph
        self.texts, self.skip = texts, int(file.settings.get("skip", 1))
        self.prompting = Prompting(subject)
        ids = torch.tensor([file.tokens])
        self.prompt = Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([ids.shape[1] - 1]))
        self._numbers = {graph.name(node): node for node in range(len(graph.features))}
        self._sides = self._read_sides()
        self._runs: OrderedDict[tuple[Fill, str], tuple[Switches, Float[Tensor, " feature"]]] = OrderedDict()
        self._require_same()

    @property
    def about(self) -> GraphAbout:
        """What a page needs to know before it asks."""
        return GraphAbout(
            model=self.subject.name,
            transcoders=self.file.transcoders.get("folder", ""),
            prompt=self.file.prompt,
            fills={name: text for name, text in FILLS.items() if name != "mean" or self.texts is not None},
            difference=self._sides is not None,
        )

    @torch.no_grad()
    def answer(self, question: GraphQuestion, stopped: Callable[[], bool] = lambda: False) -> GraphAnswer:
        """Run the prompt with the features changed, and with as many random ones.

        Raises UsageError for a feature that is no node of the graph, DataError for a counterfactual that does not fit
        the prompt, NumericalError for changes that end in infinity, Interrupted as soon as `stopped` says so.
        """
        begun, chosen = time.perf_counter(), self._chosen(question.features)
        with stopping(self.subject, stopped):
            switches, fill = self._run(question)
            full = switches.full
            logits = self._changed(switches, chosen, question.amount) if bool(chosen.any()) else full
            draws = self._draws(chosen, question.draws)
            random = [self._changed(switches, each, question.amount) for each in draws]
        return GraphAnswer(
            features=int(chosen.sum()),
            kl=max(0.0, float(kl(full, logits))),
            random=int(draws[0].sum()) if draws else 0,
            random_kl=[max(0.0, float(kl(full, each))) for each in random],
            targets=self._targets(
                chosen, (1 - question.amount) * (fill / self.graph.activations - 1), full, logits, random
            ),
            top=likeliest(self.subject, logits, logits, full, question.top),
            top_before=likeliest(self.subject, full, logits, full, question.top),
            milliseconds=1000 * (time.perf_counter() - begun),
        )

    def _chosen(self, names: Sequence[str]) -> Chosen:
        chosen = torch.zeros(len(self.graph.features), dtype=torch.bool)
        for name in names:
            if name not in self._numbers:
                raise UsageError(
                    f"the graph has no feature {name}",
                    f"features are named LAYER.NUMBER@POSITION, for example {self.graph.name(0)}",
                )
            chosen[self._numbers[name]] = True
        return chosen

    def _draws(self, chosen: Chosen, count: int) -> list[Chosen]:
        """So many times as many features that are not chosen, as far as there are any."""
        others = (~chosen).nonzero()[:, 0]
        size = min(int(chosen.sum()), len(others))
        generator = torch.Generator().manual_seed(SEED)
        picks = [others[torch.randperm(len(others), generator=generator)[:size]] for _ in range(count if size else 0)]
        return [torch.zeros_like(chosen).index_fill(0, pick, True) for pick in picks]

    def _changed(self, switches: Switches, chosen: Chosen, amount: float) -> Logits:
        """The judged logits with so much of the chosen features' own values left."""
        keep = [torch.ones(len(self.file.tokens), len(layer)) for layer in self.transcoders.layers]
        for layer, position, number in self.graph.features[chosen].tolist():
            keep[layer][position, number] = amount
        logits = switches.logits(keep)
        if not logits.isfinite().all():
            raise NumericalError("the changes make the logits infinite", "use amounts nearer to 1")
        return logits

    def _run(self, question: GraphQuestion) -> tuple[Switches, Float[Tensor, " feature"]]:
        """What switches with this fill, and the value that it has for every feature of the graph."""
        key = (question.fill, question.counterfactual if question.fill == "counterfactual" else "")
        if key not in self._runs:
            self._runs[key] = self._filled(*key)
            if len(self._runs) > KEPT:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        return self._runs[key]

    def _filled(self, fill: Fill, counterfactual: str) -> tuple[Switches, Float[Tensor, " feature"]]:
        other, means = self.prompt, None
        values = torch.zeros(len(self.graph.features))
        if fill == "counterfactual":
            if not counterfactual.strip():
                raise DataError("there is no other prompt to take values from", "type one, or take zero")
            reading = Reading(self.subject.tokenizer)
            other = self.prompting.aligned(reading, self.file.prompt, counterfactual, "other prompt")
            values = self._values(other)
        if fill == "mean":
            means = self._means()
            values = torch.stack([means[layer][0, number] for layer, _, number in self.graph.features.tolist()]).cpu()
        nobody = torch.zeros(1, 1, dtype=torch.long)  # answers of pairs; targets are judged here
        pairs = Pairs(self.prompt, other, nobody, nobody)
        return Switches(self.subject, self.transcoders, pairs, ablation=fill, means=means, skip=self.skip), values

    def _means(self) -> Means:
        if self.texts is None:
            raise DataError("there are no texts to take a mean over", "start with --texts FILE, or take zero")
        return mean_features(self.subject, self.transcoders, self.texts, by_position=False, skip=self.skip)

    def _values(self, prompt: Prompts) -> Float[Tensor, " feature"]:
        """What the graph's features do in a prompt at their positions."""
        found = features_on(self.subject, self.transcoders, prompt, skip=self.skip)
        each = [found[layer][position - self.skip, number] for layer, position, number in self.graph.features.tolist()]
        return torch.stack(each).float()

    def _targets(
        self,
        chosen: Chosen,
        shares: Float[Tensor, " feature"],
        full: Logits,
        logits: Logits,
        random: Sequence[Logits],
    ) -> list[TargetChange]:
        before, after = self._judged(full), self._judged(logits)
        moved = [self._judged(each) - before for each in random]
        prediction = predicted(self.graph, chosen, shares)
        return [
            TargetChange(
                label=label,
                before=float(before[at]),
                after=float(after[at]),
                direct=float(prediction.direct[at]),
                through=float(prediction.through[at]),
                random=[float(each[at]) for each in moved],
            )
            for at, label in enumerate(self.graph.labels)
        ]

    def _judged(self, logits: Logits) -> Float[Tensor, " target"]:
        """Targets as the graph has them: above the mean logit, or a difference."""
        found = logits[0].float().cpu()
        if self._sides is not None:
            return found[self._sides[0]] - found[self._sides[1]]
        return found[list(self.graph.targets)] - found.mean()

    def _read_sides(self) -> tuple[list[int], list[int]] | None:
        """The tokens of a logit difference, one to a side."""
        words = [self.file.settings.get(side) for side in ("right", "wrong")]
        if not all(words):
            return None
        right, wrong = (self.subject.tokenizer(word, add_special_tokens=False).input_ids for word in words)
        return right, wrong

    def _require_same(self) -> None:
        """Raises DataError where the graph's features do something else than in the graph."""
        found, told = self._values(self.prompt), self.graph.activations
        away = (found - told).abs()
        worst = int(away.argmax())
        if float(away[worst]) > NEAR * float(told.max()):
            name, folder = self.graph.name(worst), self.file.transcoders.get("folder", "the folder")
            raise DataError(
                f"feature {name} is at {float(found[worst]):.3g} here and at {float(told[worst]):.3g} in the graph: "
                f"the transcoders in {folder}, or the model's weights, are others",
                "bring back those that the graph was made with, or make the graph again",
            )
