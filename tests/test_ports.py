"""The ports that tests choose for their servers belong to one test."""

import itertools
import random
import socket
from typing import Any

import pytest

from tests import ports
from tests.ports import BLOCK, PORTS, claimed_blocks, free_port, is_free


def test_two_processes_never_get_the_same_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = (first for first in PORTS[::BLOCK] for _ in range(2))

    class InOrder(random.Random):
        def choice(self, _: Any) -> Any:
            return next(twice)

    one, other, third = itertools.islice(claimed_blocks(InOrder()), 3)
    assert not {*one} & {*other}
    assert not {*other} & {*third}


def test_a_port_is_chosen_only_once() -> None:
    found = [free_port() for _ in range(BLOCK + 1)]  # of more than one block
    assert len({*found}) == len(found)


@pytest.mark.parametrize("offset", [0, ports.BUS_OFFSET])
def test_a_port_on_which_a_server_listens_is_not_free(offset: int) -> None:
    port = free_port()
    assert is_free(port)
    with socket.create_server(("127.0.0.1", port + offset)):
        assert not is_free(port)
