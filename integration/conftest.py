"""One stage for each test: containers where Docker answers, else processes.

``RAP_STAGE=machine`` or ``RAP_STAGE=docker`` chooses; what was chosen is in the header.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.choice import choose
from integration.stage import Machine, Stage
from rap.client import Client
from tests.redis_server import HOW_TO_GET_ONE, find_redis_server
from tests.transport.certificates import Certificates


def pytest_report_header() -> str:
    return f"stage: {choose().reason}"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    choice = choose()
    if choice.image is not None:
        from integration.containers import Containers

        made: Stage = Containers(choice.image)
    elif find_redis_server() is None:
        pytest.skip(HOW_TO_GET_ONE)
    else:
        made = Machine(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def client(stage: Stage) -> Client:
    """A client of ``calc``, which its test connects; it calls all instances in turn."""
    return Client(
        service="calc",
        registry=stage.redis_url,
        picker="round_robin",
        slow_start=0,
        connect_timeout=30,
    )
