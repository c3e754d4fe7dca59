"""Full evidence for people: faithfulness by size, and a line for every other question."""

from collections.abc import Iterator

from rich.table import Table

from subcircuit.evaluation import Estimate, FullEvidence

__all__ = ["curve_table", "lines"]


def curve_table(found: FullEvidence) -> Table:
    """A row per size, for every order of the items; its areas below."""
    table = Table(box=None, pad_edge=False, title="faithfulness by size", title_style="dim")
    for column in ("k", "items", "faithfulness", "mean of ratios", "KL (nats)"):
        table.add_column(column, justify="right")
    for curve in found.curves:
        if len(found.curves) > 1:
            table.add_row(f"by {curve.order}", style="dim")
        for point in curve.points:
            cells = (point.faithfulness, point.by_prompt, point.kl)
            table.add_row(f"{point.fraction:g}", str(point.connected), *(_cell(each) for each in cells))
    return table


def lines(found: FullEvidence) -> Iterator[str]:
    """One question and its answer each."""
    yield from _areas(found)
    without = found.complement.scores
    yield f"without the circuit: faithfulness {_cell(without.faithfulness)}, KL {_cell(without.kl)}"
    yield f"NDF: {_cell(found.recovered.ndf)}"
    if found.incompleteness is not None:
        share = found.incompleteness.share
        of_gap = "" if share is None else f", {share:.1%} of the gap"
        yield (
            f"incompleteness over {found.incompleteness.draws} random parts: "
            f"{_cell(found.incompleteness.mean)} logits{of_gap}"
        )
    if found.minimality is not None:
        nodes, small = found.minimality.nodes, found.minimality.negligible
        measured = sum(each.drop is not None for each in nodes)
        yield f"minimality: {len(small)} of {len(nodes)} nodes are worth less than 1% of the gap ({measured} measured)"
        for kind, fine in found.minimality.fine.items():
            yield f"  {kind}: {fine.negligible} of {fine.kept}, to first order"
    yield from _tests(found)
    yield f"outliers: {found.outliers.count} prompts above a KL of {found.outliers.fence:.3g}"
    yield from (f"  {each.kl:.3g}  {each.text or f'row {each.row}'}" for each in found.outliers.prompts[:3])
    for stable in found.stability:
        alike = ", ".join(f"{kind} {_cell(value)}" for kind, value in stable.jaccard.items())
        yield f"Jaccard over {stable.runs} {_OVER[stable.over]} ({stable.method}): {alike}"
    if found.optimal is not None:
        yield f"KL with optimal constants: {_cell(found.optimal.kl)}, with means: {_cell(found.optimal.mean_kl)}"


_OVER = {"seeds": "seeds", "prompts": "resamples of prompts"}


def _areas(found: FullEvidence) -> Iterator[str]:
    first, last = found.curves[0], found.curves[-1]
    if first.means is None or last.means is None:
        yield f"no faithfulness: {first.undefined or last.undefined}"
        return
    yield f"CPR {_cell(first.means.area)} (higher is better), over log k {_cell(first.means.log_area)}"
    yield f"CMD {_cell(last.means.distance)} (lower is better), over log k {_cell(last.means.log_distance)}"


def _tests(found: FullEvidence) -> Iterator[str]:
    for name, test in (("equivalence", found.equivalence), ("independence", found.independence)):
        yield f"{name}: {'rejected' if test.rejected else 'not rejected'} (p = {test.p:.2g}; H0: {test.hypothesis})"
    if found.redundancy is not None:
        tried, extra = found.redundancy.p, found.redundancy.redundant
        names = f": {', '.join(extra[:8])}{', ...' if len(extra) > 8 else ''}" if extra else ""
        yield f"minimality test: {len(extra)} of {len(tried)} nodes are redundant{names}"


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
