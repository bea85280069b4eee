"""A handler that changes the header of its call changes no other call."""

from typing import Any

import pytest

from rap.server import context
from rap.server.middleware import BaseMsgMiddleware
from tests.loopback import calling, serving

ON_BOTH_LOOPS = True


async def note() -> Any:
    """Return the header as it came, and change all of it."""
    header = context.call.header
    found = repr(header)
    for value in header.values():
        if isinstance(value, list):
            value.append("changed")
            for each in value:
                if isinstance(each, dict):
                    each["changed"] = True
        elif isinstance(value, dict):
            value["changed"] = True
            for each in value.values():
                if isinstance(each, list):
                    each.append("changed")
    header["more"] = "changed"
    return found


class Quiet(BaseMsgMiddleware):
    """Lets calls take the way of middleware."""


@pytest.mark.parametrize("middleware", [[], [Quiet()]], ids=["plain", "middleware"])
@pytest.mark.parametrize(
    "header",
    [
        {"roles": ["user"]},
        {"roles": {"user": True}},
        {"roles": [{"of": "user"}]},
        {"user": {"roles": ["reader"]}},
        {"name": "alice", "raw": b"bytes", "n": 1},
    ],
)
async def test_a_value_of_a_header_is_not_shared_with_other_clients(
    header: dict[str, Any], middleware: list[BaseMsgMiddleware]
) -> None:
    options = {"middleware_list": [Quiet()]} if middleware else {}
    async with serving(note, **options) as server:
        for _ in range(2):
            async with calling(server) as client:
                for _ in range(2):
                    assert await client.raw_call("note", header=header) == repr(header)
