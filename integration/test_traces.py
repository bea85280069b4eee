"""A trace through three services, one attempt of which fails, as collectors get it.

It runs on processes, not in containers: the collectors listen on loopback.
"""

from pathlib import Path

import pytest

from integration.traces import WAYS, look, trace
from integration.tree import tree
from tests.redis_server import HOW_TO_GET_ONE, find_redis_server


@pytest.mark.skipif(find_redis_server() is None, reason=HOW_TO_GET_ONE)
@pytest.mark.parametrize("way", WAYS)
def test_a_trace_goes_from_the_gateway_to_the_service_behind_the_service(
    way: str, tmp_path: Path
) -> None:
    found = trace(way, tmp_path)
    assert look(found) == []
    lines = list(tree(found.spans, found.parent))
    assert [line.index("─ ") for line in lines if "─ " in line] == [1, 4, 7, 10]
    assert "attempt 2 to 127.0.0.1:" in lines[-2]
    assert "after UNAVAILABLE: " in lines[-2]
    assert "calc b: default/add, server" in lines[-1]
