"""One tiny model of each kind of page, and its session, for all tests here."""

import pytest

from live import Live, live
from live_concepts import LiveConcepts, live_concepts
from live_graphs import LiveGraph, live_graph


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return live(tmp_path_factory.mktemp("live"))


@pytest.fixture(scope="session")
def concepts(tmp_path_factory: pytest.TempPathFactory) -> LiveConcepts:
    return live_concepts(tmp_path_factory.mktemp("concepts"))


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LiveGraph:
    return live_graph(tmp_path_factory.mktemp("graph"))
