"""The command line: one verb per step, one file per verb. `--help` and `list` import no torch."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from subcircuit import plugins
from subcircuit.cli._bench import ground_truth
from subcircuit.cli._check import check
from subcircuit.cli._compare import compare
from subcircuit.cli._concepts import CODEBOOKS
from subcircuit.cli._concepts import explain as explain_concepts
from subcircuit.cli._concepts import fit as fit_concepts
from subcircuit.cli._concepts import score as score_concepts
from subcircuit.cli._concepts_judge import judge as judge_concepts
from subcircuit.cli._concepts_label import label as label_concept
from subcircuit.cli._distill import distill
from subcircuit.cli._exchange import check_mib, export, import_
from subcircuit.cli._extract import extract
from subcircuit.cli._features import check_features, train_features
from subcircuit.cli._find import find
from subcircuit.cli._graph import graph
from subcircuit.cli._graph_search import hierarchy
from subcircuit.cli._launch import LAUNCH, SHARDED
from subcircuit.cli._list import list_
from subcircuit.cli._options import parameters, signed
from subcircuit.cli._plan import plan_find, plan_score
from subcircuit.cli._report import report
from subcircuit.cli._score import score
from subcircuit.cli._share import pull, push
from subcircuit.cli._shell import run
from subcircuit.cli._show import show
from subcircuit.cli._view import view
from subcircuit.errors import UnknownName, UsageError

__all__ = ["main"]

EPILOG = """
Exit codes: 0 all well | 1 another error | 2 wrong use | 3 bad data | 4 memory, disk or network | 5 unsupported model
| 6 NaN or infinity | 7 budget not met | 130 interrupted
"""

# Large pages, where the system has them, for memory that is taken anew in every pass; and on few cores, OpenMP threads
# that spin while they wait cost more than they bring.
MEMORY_AND_THREADS = {"THP_MEM_ALLOC_ENABLE": "1", "OMP_WAIT_POLICY": "PASSIVE"}


class Verbs(TyperGroup):
    """A group that answers an unknown name with the nearest one."""

    what = "verb"

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name. Raises UnknownName."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            raise UnknownName(self.what, cmd_name, self.commands)
        return command


class Benchmarks(Verbs):
    """What there is below `bench`."""

    what = "benchmark"


class Dictionaries(Verbs):
    """What there is below `features`."""

    what = "verb of features"


class Plans(Verbs):
    """What there is below `plan`."""

    what = "plan"


OTHERS = {"graph": "subcircuit graph --help", "hierarchy": "subcircuit find hierarchy --help"}


class Methods(Verbs):
    """The methods below `find`."""

    what = "method"

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name. Raises UnknownName, and UsageError for what has transcoders instead of settings."""
        if cmd_name in OTHERS and cmd_name not in self.commands:
            path = ctx.command_path.partition(" ")[2]
            raise UsageError(f"{cmd_name} is no method of `{path}`: it takes transcoders", OTHERS[cmd_name])
        return super().get_command(ctx, cmd_name)


def main() -> None:
    """The entry point of `subcircuit`."""
    for name, value in MEMORY_AND_THREADS.items():  # before torch is imported
        os.environ.setdefault(name, value)
    sys.exit(run(_app(), sys.argv[1:]))


def _app() -> typer.Typer:
    app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, epilog=EPILOG)
    app.callback()(_root)
    app.command("list")(list_)
    app.command("check")(check)
    app.add_typer(_finds(), name="find")
    app.add_typer(_plans(), name="plan")
    app.command("score", help=score.__doc__)(signed(score, LAUNCH))
    app.command("show")(show)
    app.command("compare")(compare)
    app.command("report")(report)
    app.command("view")(view)
    app.command("extract")(extract)
    app.command("distill")(distill)
    app.add_typer(_dictionaries(), name="features")
    app.command("graph")(graph)
    app.command("export")(export)
    app.command("import")(import_)
    app.command("check-mib")(check_mib)
    app.command("push")(push)
    app.command("pull")(pull)
    app.add_typer(_concepts(), name="concepts")
    app.add_typer(_benchmarks(), name="bench")
    return app


def _finds() -> typer.Typer:
    """`find`: circuits of a model's nodes or edges by the methods, and of the features of transcoders."""
    finds = _methods(find, "Find the circuit of a task in a model.", SHARDED)
    finds.command("hierarchy")(hierarchy)
    return finds


def _methods(verb: Callable[..., None], told: str, sharded: Sequence[str] = ()) -> typer.Typer:
    """A verb with a command per method, its options the method's settings; a launcher's too, where it is `sharded`."""
    methods = typer.Typer(cls=Methods, no_args_is_help=True, help=told)
    methods.callback()(lambda: None)
    for name in plugins.names("methods"):
        options = [*parameters(name), *(LAUNCH if name in sharded else ())]
        methods.command(name, help=plugins.summary("methods", name))(signed(verb, options))
    return methods


def _plans() -> typer.Typer:
    plans = typer.Typer(
        cls=Plans, no_args_is_help=True, help="What a search or a score would take, before it is begun."
    )
    plans.callback()(lambda: None)
    plans.add_typer(_methods(plan_find, "What finding the circuit would take."), name="find")
    plans.command("score")(plan_score)
    return plans


def _concepts() -> typer.Typer:
    """`concepts`, whose `fit` has a command per method."""
    concepts = typer.Typer(cls=Verbs, no_args_is_help=True, help="Concepts: codebooks of hidden states.")
    concepts.callback()(lambda: None)
    methods = typer.Typer(cls=Methods, no_args_is_help=True, help="Fit a codebook of a model's hidden states.")
    methods.callback()(lambda: None)
    for name in plugins.names(CODEBOOKS):
        told = plugins.summary(CODEBOOKS, name)
        methods.command(name, help=told)(signed(fit_concepts, parameters(name, CODEBOOKS)))
    concepts.add_typer(methods, name="fit")
    concepts.command("explain")(explain_concepts)
    concepts.command("score")(score_concepts)
    concepts.command("judge")(judge_concepts)
    concepts.command("label")(label_concept)
    return concepts


def _benchmarks() -> typer.Typer:
    benchmarks = typer.Typer(cls=Benchmarks, no_args_is_help=True, help="Methods on models whose circuits are known.")
    benchmarks.callback()(lambda: None)
    benchmarks.command("ground-truth")(ground_truth)
    return benchmarks


def _dictionaries() -> typer.Typer:
    verbs = typer.Typer(cls=Dictionaries, no_args_is_help=True, help="Sparse dictionaries: train one, or check one.")
    verbs.callback()(lambda: None)
    verbs.command("train")(train_features)
    verbs.command("check")(check_features)
    return verbs


def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True, callback=lambda on: _version(on))
    ] = False,
) -> None:
    """Find the part of a language model that causes a behaviour, prove it, and read it."""


def _version(on: bool) -> None:
    if on:
        typer.echo(f"subcircuit {version('subcircuit')}")
        raise typer.Exit
