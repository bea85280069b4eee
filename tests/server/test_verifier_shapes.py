"""No shape of a verifier admits a wrong token: no argument is given that was not asked for."""

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from faults.verifiers import shapes
from rap.address import Peer
from rap.client import Client
from rap.errors import RapError, Unauthenticated
from rap.schema.signature import asking_for
from rap.server import Server, context
from rap.server.authentication import identify, verify_with
from rap.server.middleware import BaseMsgMiddleware
from tests.loopback import LOOPBACK, calling, serving

ON_BOTH_LOOPS = True

USERS = {"right": "alice"}
PEER = Peer("192.0.2.1", 1)


async def admits(verifier: Callable[..., Any], token: str) -> bool:
    """Return whether a verifier admits a token; a mistake in it admits none."""
    try:
        return bool(await identify(verify_with(verifier), token, PEER))
    except TypeError:
        return False


async def test_no_shape_of_a_verifier_admits_a_wrong_token() -> None:
    assert len(list(shapes(USERS))) >= 100
    for shape, verifier in shapes(USERS):
        assert await admits(verifier, "right"), shape
        assert not await admits(verifier, "wrong"), shape


def lookup(token: str, *, users: dict[str, str], default: Any = None) -> Any:
    return users.get(token, default)


class Lookup(dict[str, str]):
    """A dict with a method of its own."""

    def find(self, token: str, default: Any = None) -> Any:
        return self.get(token, default)


@pytest.mark.parametrize(
    "verifier",
    [
        USERS.get,
        Lookup(USERS).get,
        Lookup(USERS).find,
        frozenset(USERS).__contains__,
        dict(USERS).setdefault,
        functools.partial(lookup, users=USERS),
        functools.lru_cache(USERS.get),
        functools.lru_cache(lambda token, default=None: USERS.get(token, default)),
        re.compile("right").fullmatch,
        lambda token, db=USERS: db.get(token),
    ],
)
async def test_what_is_at_hand_to_look_up_a_token_is_a_verifier(verifier: Any) -> None:
    assert await admits(verifier, "right")
    assert not await admits(verifier, "wrong")


async def test_a_server_whose_verifier_is_the_get_of_a_dict_refuses_wrong_tokens() -> None:
    async def who() -> str:
        peer = context.call.peer
        assert peer is not None
        return str(peer.identity)

    async with serving(who, verify_token=USERS.get) as server:
        async with Client(server.addresses, token="right") as client:
            assert await client.raw_call("who") == "alice"
        for token in ["wrong", None]:
            client = Client(server.addresses, token=token)
            with pytest.raises(Unauthenticated):
                await client.connect()
            await client.await_close()


async def another(token: str) -> str | None:
    return USERS.get(token)


def yielding(token: str) -> Iterator[str]:
    yield token


async def yielding_later(token: str) -> AsyncIterator[str]:
    yield token


async def forgets_to_await(token: str) -> Any:
    return asyncio.ensure_future(another(token))


class User:
    """A class that was given where a function was meant."""

    def __init__(self, token: str) -> None:
        self.token = token


@pytest.mark.parametrize(
    "verifier",
    [
        lambda token, peer: peer,
        lambda token, peer: Peer("192.0.2.1", 1),
        yielding,
        yielding_later,
        forgets_to_await,
        lambda token: another,
        lambda token: USERS.get,
        lambda token: User,
        lambda token: PermissionError("no such user"),
        lambda token: NotImplemented,
        lambda token: functools.partial(another, token),
        lambda token: map(str, [token]),
    ],
)
async def test_what_cannot_be_an_identity_admits_nobody(verifier: Any) -> None:
    with pytest.raises(TypeError, match="cannot be the identity of a client"):
        await identify(verify_with(verifier), "any", PEER)


async def test_a_server_refuses_an_identity_that_is_the_peer() -> None:
    async def one() -> int:
        return 1

    async with serving(one, verify_token=lambda token, peer: peer) as server:
        client = Client(server.addresses, token="any", connect_timeout=0.2)
        with pytest.raises(RapError):
            await client.connect()
        await client.await_close()


@pytest.mark.parametrize(
    "verifier",
    [
        lambda: True,
        lambda token, peer, third: True,
        lambda *, token: True,
        lambda token, *, db: True,
        lambda peer, token: True,
        lambda peer: True,
    ],
)
def test_a_verifier_that_cannot_be_called_is_refused_at_construction(verifier: Any) -> None:
    with pytest.raises(TypeError, match="verify_token gets one argument, and `peer` if it asks"):
        Server(LOOPBACK, verify_token=verifier)


class Retrying(BaseMsgMiddleware):
    """Has a parameter of its own, with a default."""

    seen: list[Any]

    async def dispatch(
        self, request: Any, call_id: int, func: Any, param: list[Any], retries: int = 3
    ) -> tuple[int, Any]:
        self.seen = [retries]
        return await self.call_next(request, call_id, func, param)


class Passing(BaseMsgMiddleware):
    """Passes on whatever it gets."""

    async def dispatch(self, *args: Any) -> tuple[int, Any]:
        return await self.call_next(*args)


class ByName(BaseMsgMiddleware):
    """Asks for the keyword arguments by their name."""

    async def dispatch(
        self,
        request: Any,
        call_id: int,
        func: Any,
        param: list[Any],
        retries: int = 3,
        *,
        default_param: Any = None,
    ) -> tuple[int, Any]:
        assert retries == 3
        return await self.call_next(request, call_id, func, param, {"by": default_param["by"] * 2})


async def divide(a: int, *, by: int = 1) -> int:
    return a // by


async def test_middleware_gets_keyword_arguments_only_if_it_asks_for_them() -> None:
    retrying = Retrying()
    chain = [ByName(), Passing(), retrying]
    async with serving(divide, middleware_list=chain) as server, calling(server) as client:
        assert await client.call(divide, 12, by=2) == 3
    assert retrying.seen == [3]


def test_an_argument_goes_to_the_parameter_that_asks_for_it() -> None:
    def given(func: Callable[..., Any]) -> Any:
        asked = asking_for(func, 1, "peer", option="f")
        return None if asked is None else asked("token", "PEER")

    assert given(lambda token: "") is None
    assert given(str) is None
    assert given(lambda token, other=1: other) is None
    assert given(lambda token, *rest: rest) is None
    assert given(lambda token, **named: named) is None
    assert given(lambda token, other: other) == "PEER"
    assert given(lambda token, peer=None: peer) == "PEER"
    assert given(lambda token, other=1, peer=None: (other, peer)) == (1, "PEER")
    assert given(lambda token, *rest, peer=None: (rest, peer)) == ((), "PEER")
