"""Row 40: which verifiers of tokens admit a token that is not valid."""

import asyncio
import functools
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from faults.raw import opening, speaking
from faults.scenario import Measured, Scale, Scenario
from rap.server import Server
from rap.wire.codec import pack
from rap.wire.frames import DATA, GOAWAY, parse_frames
from rap.wire.hello import DEFAULT_LIMITS, hello_frame

__all__ = ["SCENARIOS", "shapes"]

_PATIENCE = 20.0  # seconds
_AT_ONCE = 20  # servers that run at the same time

# Parameters after the token, and which of them a verifier would return for an unknown token.
_PARAMETERS = {
    "": "None",
    "default=None": "default",
    "default=None, /": "default",
    "default=None, other=None": "default or other",
    "default=None, *, other=None": "default or other",
    "*rest": "rest",
    "*rest, other=None": "rest or other",
    "**named": "named",
    "*rest, **named": "rest or named",
    "*, default=None": "default",
    "default=None, *rest, **named": "default or rest or named",
    "peer": "peer",
    "peer, /": "peer",
    "peer=None": "peer",
    "*, peer": "peer",
    "*, peer=None": "peer",
    "address": "address",
    "address, default=None": "default or address",
    "default=None, peer=None": "default or peer",
    "default=None, *, peer": "default or peer",
}


def _compiled(
    parameters: str, unknown: str, users: Mapping[str, str], *, coroutine: bool, method: bool
) -> Callable[..., Any]:
    source = f"""
{"async " if coroutine else ""}def verify({"self, " if method else ""}token, {parameters}):
    return users.get(token, {unknown})
"""
    scope: dict[str, Any] = {"users": users}
    exec(source, scope)
    verify: Callable[..., Any] = scope["verify"]
    return types.MethodType(verify, object()) if method else verify


def _as_object(verify: Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(verify, types.MethodType):
        return verify
    made: Callable[..., Any] = type("Users", (), {"__call__": verify.__func__})()
    return made


def _decorated(verify: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verify)
    def wrapper(*args: Any, **named: Any) -> Any:
        return verify(*args, **named)

    return wrapper


_FORMS: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
    lambda verify: verify,
    _as_object,
    _decorated,
    functools.partial,
]


def shapes(users: Mapping[str, str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Return functions that look up a token among users, in all shapes; each with its name.

    For an unknown token, each returns an argument that it was given beyond the token, if any.
    """
    flags = (False, True)
    for parameters, form, coroutine, method in itertools.product(_PARAMETERS, _FORMS, flags, flags):
        verify = _compiled(
            parameters, _PARAMETERS[parameters], users, coroutine=coroutine, method=method
        )
        made = form(verify)
        yield f"({parameters}) of {made}", made


async def guesses(scale: Scale) -> Measured:
    """A wrong token for each shape, and the right one."""
    users = {"right": "alice"}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def both(verifier: Callable[..., Any]) -> tuple[bool, bool]:
        async with gate:
            return await _admitted(verifier, "right"), await _admitted(verifier, "wrong")

    found = await asyncio.gather(*(both(each) for _, each in shapes(users)))
    right, wrong = (sum(each) for each in zip(*found, strict=True))
    text = f"{wrong} of {len(found)} shapes admit a wrong token, {right} the right one"
    return Measured(text, len(found) >= 100 and wrong == 0 and right == len(found))


async def _fine() -> int:
    return 1


async def _admitted(verifier: Callable[..., Any], token: str) -> bool:
    """Whether a server answers the call of a client with a token."""
    server = Server("127.0.0.1:0", verify_token=verifier, close_timeout=0.1)
    server.register(_fine, "fine")
    fields = {"rap": 1, **DEFAULT_LIMITS.to_hello(), "random": b"r" * 16, "token": token}
    async with server, speaking(server.addresses[0].port, hello_frame(fields)) as raw:
        raw.writer.write(opening(1, pack([]), "fine"))
        data = b""
        async with asyncio.timeout(_PATIENCE):
            while part := await raw.reader.read(65536):
                data += part
                kinds = {frame.kind for frame in parse_frames(data)}
                if kinds & {DATA, GOAWAY}:
                    return DATA in kinds
    return False


SCENARIOS = [
    Scenario(40, "intent guessed from an arity", "0 of 100 shapes admit a wrong token", guesses)
]
