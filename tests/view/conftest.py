"""One tiny model and its session for all tests here."""

import pytest

from live import Live, live


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return live(tmp_path_factory.mktemp("live"))
