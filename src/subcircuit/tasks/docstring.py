"""Docstrings: the next parameter to be documented is the next one in the signature.

Heimersheim & Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer". As there, the
corrupted prompt has other names in its signature, so that nothing tells which parameter comes next. Departs from it:
several layouts, and one to three parameters documented already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from subcircuit.tasks._base import Row, Split
from subcircuit.tasks._fillers import Arrangements, words
from subcircuit.tasks._reading import Reading
from subcircuit.tasks._templated import Space, Templated

__all__ = ["Docstring"]

PARAMETERS = 4  # in each signature, after a fixed first one
PARAMETER_NAMES = words(
    "parameter names",
    """
    load size file last name value path data index key text line mode level type user color shape time date list item
    node root first next left right width height table field label group order count limit start stop step state
    result page word image message model target source output input option project image number title code address
    event filter block image token rule score rate phase frame channel region port host query
    action age amount angle area array author backup base batch begin bit body border bottom branch bucket buffer button
    byte call cell center chain child class client clock column command comment config content context copy cost
    counter cursor cycle day debug delay depth design detail device direction directory distance document domain
    driver edge effect element engine entity entry error expression factor feature final flag flow folder font frame
    function game graph grid header hook icon info instance interface interval job kind layer layout library link lock
    log loop map margin mask master match matrix member memory menu method metric minute module money month music
    network note number object offset origin owner pack panel parent part partner password pattern peer percent period
    person picture pixel player policy pool position power prefix price priority process product profile program
    progress project property protocol provider quality quantity queue range rank ratio reader reason record reference
    report request resource response role route row run sample scale scene schema scope screen script search second
    section seed segment sequence series server service session set signal site slot socket sort source space speed
    stage status storage store stream string student style subject summary surface switch symbol system tag task team
    term test theme thread timeout token tool total track train transfer transform trigger unit update value variable
    vector version video view volume weight window word worker zone
    """,
)
FUNCTIONS = words(
    "function names",
    """
    run build make read write send check update create process handle format parse convert load merge apply render sort
    """,
)
NOUNS = words(
    "nouns of descriptions",
    """
    oil column piece crime population unit dark sun song light page phone share income creature dog user board member
    sea pool agreement model street plan animal metal case road mouth sport ship energy market box wing bread
    """,
)


@dataclass(frozen=True)
class Layout:
    """How a docstring is written; "{}" is a noun."""

    opening: str
    field: str  # the word that announces a parameter
    described: tuple[str, ...]  # what is said of the parameters documented already

    @property
    def nouns(self) -> int:
        """How many nouns it takes."""
        return sum(text.count("{}") for text in (self.opening, *self.described))

    def prompt(self, head: str, documented: Sequence[str], nouns: Sequence[str]) -> str:
        """The function up to the field word of the parameter that comes next."""
        fields = [f"    {self.field} {name}: {text}" for name, text in zip(documented, self.described, strict=False)]
        docstring = "\n".join([f'    """{self.opening}', *fields, f"    {self.field}"])
        return f"{head}\n{docstring.format(*nouns)}"


LAYOUTS: dict[Split, tuple[Layout, ...]] = {
    "train": (
        Layout("{} {} {}\n", ":param", ("{} {}", "{} {}")),
        Layout("\n    {} {}\n", ":param", ("{} {}",)),
        Layout("{} {}.\n", ":param", ("{}", "{}", "{}")),
        Layout("{} {}\n", "@param", ("{} {}", "{} {}")),
        Layout("{}: {}\n", ":param", ("one {}", "all {}", "{} {}")),
        Layout("\n    {} with {}\n", ":param", ("{} in {}", "{}")),
        Layout("{} {} {}", "@param", ("this {}",)),
        Layout("\n    {} {} {} {}.\n", "@param", ("{}", "{}", "{}")),
        Layout("Each {}\n", ":param", ("each {} {}", "{} {} {}")),
        Layout("{} and {}\n", ":param", ("{} and {}",)),
    ),
    "validation": (
        Layout("{} {} {} {}", ":param", ("{}", "{}")),
        Layout("{} the {}\n", "@param", ("the {} {}", "the {}")),
        Layout("\n    {} by {}\n", ":param", ("{} for {}", "{} for {}", "{}")),
        Layout("Any {} {}\n", ":param", ("any {}",)),
    ),
    "test": (
        Layout("The {} {}\n", ":param", ("a {} {}", "a {} {}")),
        Layout("\n    {} of {}\n", ":param", ("{} of {}", "{} of {}")),
        Layout("Some {}: {} {}\n", "@param", ("{}", "{} {}", "{}")),
    ),
}


@dataclass(frozen=True)
class Docstring(Templated):
    """The parameter to be documented next."""

    pools = (PARAMETER_NAMES,)

    def space(self, reading: Reading, split: Split) -> Space:
        """Layout, function name and parameters; descriptions and the other signature are drawn."""
        names = PARAMETER_NAMES.kept(reading, split, least=2 * PARAMETERS)
        nouns = NOUNS.share(split)

        def write(rng: Random, layout: Layout, function: str, right: tuple[str, ...]) -> Row:
            other = rng.sample([name for name in names if name not in right], PARAMETERS)
            described = rng.choices(nouns, k=layout.nouns)
            first = rng.choice(("self", "cls"))
            clean, corrupt = (
                layout.prompt(f"def {function}({first}, {', '.join(signature)}):", right, described)
                for signature in (right, other)
            )
            answer = right[len(layout.described)]
            wrong = (name for name in (*right, *other) if name != answer)
            return Row(clean, corrupt, (f" {answer}",), tuple(f" {name}" for name in wrong))

        return Space((LAYOUTS[split], FUNCTIONS.share(split), Arrangements(names, PARAMETERS)), write)
