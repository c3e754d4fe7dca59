"""Where the gates of node pruning start: all open, or ranked by integrated gradients of KL."""

import torch
from torch import Tensor

from subcircuit import metrics
from subcircuit.gradients import attribution, coarsen
from subcircuit.intervention import masking
from subcircuit.methods._node_study import NodeStudy
from subcircuit.methods._plan import COARSE_START, FINE_START, LogAlpha, Plan, by_site, ranked
from subcircuit.parallel.rows import gathered
from subcircuit.progress import Progress
from subcircuit.sites import Site

__all__ = ["first_gates"]

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # of each fine granularity, from which a search may start
RANKING = 64  # pairs that are enough to rank by; the gates see all


def first_gates(plan: Plan, study: NodeStudy, tell: Progress) -> LogAlpha:
    """The first values of every gate's `log_alpha`."""
    subject = study.subject
    shape = {kind: (len(subject), subject.units(kind)) for kind in plan.kinds}
    start = {kind: torch.full(shape[kind], COARSE_START.get(kind, FINE_START)) for kind in plan.kinds}
    if not plan.warm_start or COARSE_START.keys() >= set(plan.kinds):
        return start
    scores = _attributions(plan, study, tell)
    for share in [plan.share] if plan.share else SHARES:
        gates = start | {kind: ranked(score, share) for kind, score in scores.items()}
        if plan.share or plan.size is not None or _kl(plan, study, gates) <= plan.budget:
            break
    return gates


def _attributions(plan: Plan, study: NodeStudy, tell: Progress) -> LogAlpha:
    """The size of every fine node's share in KL."""
    rows = torch.arange(min(RANKING, len(study.pairs)))
    done = 0

    def told(prompts: int) -> None:
        nonlocal done
        done += prompts
        tell("attribution", done, plan.warm_start * len(rows))

    acting = attribution(
        study.subject,
        study.pairs[rows],
        study.corrupted,
        objective="kl" if plan.warm_start > 1 else "logit-difference",
        steps=plan.warm_start,
        batch_size=2 * plan.batch,
        on_step=told,
    )
    scores = coarsen(study.subject, acting, plan.kinds)
    layers = range(len(study.subject))
    fine = [kind for kind in plan.kinds if kind not in COARSE_START]
    return {kind: torch.stack([scores[Site(layer, kind)] for layer in layers]).abs() for kind in fine}


@torch.no_grad()
def _kl(plan: Plan, study: NodeStudy, gates: LogAlpha) -> float:
    """KL of the relaxed gates on a few discovery pairs."""
    few = min(2 * plan.batch, len(study.pairs))
    mask = {kind: plan.relaxation(value, torch.Generator().manual_seed(plan.seed)) for kind, value in gates.items()}

    def run(rows: Tensor) -> Tensor:
        with masking(study.subject, by_site(mask), study.corrupted(rows)):
            logits = study.subject.logits(study.pairs.clean[rows])
        return metrics.kl(study.full[rows].to(logits.device), logits)

    return float(gathered(run, study.pairs.clean.lengths[:few], few).mean())
