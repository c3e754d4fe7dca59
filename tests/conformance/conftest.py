"""Every test here that asks for `family` runs once for each file of the families folder."""

import pytest
import torch

from subcircuit import plugins
from subcircuit.subject import Prompts, Subject
from tiny import random_prompts, shortened, tiny


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", plugins.names("families"), scope="module")


@pytest.fixture(scope="module")
def subject(family: str) -> Subject:
    return tiny(family)


@pytest.fixture(params=["full", "padded"])
def prompts(request: pytest.FixtureRequest, subject: Subject) -> tuple[Prompts, Prompts]:
    """Clean and corrupted prompts of the same lengths; no token is the same in both but by chance."""
    clean, corrupt = random_prompts(subject, seed=1), random_prompts(subject, seed=2)
    return (clean, corrupt) if request.param == "full" else (shortened(clean), shortened(corrupt))


@pytest.fixture(autouse=True)
def no_gradients() -> object:
    """Off unless a test turns them on."""
    with torch.no_grad():
        yield
