"""Errors: one tree, exit codes that differ, messages with the nearest name and the cure."""

import pytest

from subcircuit import errors
from subcircuit.errors import MissingExtra, SubcircuitError, UnknownName, UsageError

CLASSES = [getattr(errors, name) for name in errors.__all__]


def test_every_public_error_is_of_the_one_tree() -> None:
    assert all(issubclass(error, SubcircuitError) for error in CLASSES)
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert set(errors.__all__) == defined


def test_exit_codes_tell_the_branches_apart() -> None:
    branches = [SubcircuitError, *(error for error in CLASSES if error.__base__ is SubcircuitError)]
    codes = [error.exit_code for error in branches]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes
    assert {error.exit_code for error in (UsageError, UnknownName, MissingExtra)} == {2}  # as command lines have it
    assert errors.Interrupted.exit_code == 130  # 128 + SIGINT


@pytest.mark.parametrize(("cure", "text"), [("do this", "wrong\ndo this"), ("", "wrong")])
def test_text_is_the_message_and_below_it_the_cure(cure: str, text: str) -> None:
    error = SubcircuitError("wrong", cure)
    assert (str(error), error.message, error.cure) == (text, "wrong", cure)


def test_unknown_name_gives_the_nearest_and_all() -> None:
    error = UnknownName("task", "iol", ["ioi", "docstring", "capital"])
    assert str(error) == "no task 'iol'; did you mean 'ioi'? there are: capital, docstring, ioi"
    assert error.known == ["capital", "docstring", "ioi"]


def test_unknown_name_guesses_nothing_from_afar() -> None:
    assert str(UnknownName("task", "xyz", ["ioi"])) == "no task 'xyz'; there are: ioi"


def test_missing_extra_says_what_to_install() -> None:
    assert MissingExtra("device 'spread'", "accelerate").cure == 'pip install "subcircuit[accelerate]"'
