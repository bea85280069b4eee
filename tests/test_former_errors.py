"""The error names of release 0.5.3.8 catch what they caught."""

import pytest

from rap.common.exceptions import (
    BaseRapError,
    FuncNotFoundError,
    RPCError,
    ServerError,
    TooManyRequest,
)
from rap.errors import Code
from rap.server.processor import LimitProcessor, Rule
from tests.loopback import calling, serving


async def fail() -> None:
    raise LookupError("not in stock")


async def test_a_missing_function_is_a_func_not_found_error() -> None:
    async with serving() as server, calling(server) as client:
        with pytest.raises(FuncNotFoundError) as caught:
            await client.raw_call("nothing")
    assert isinstance(caught.value, BaseRapError)


async def test_an_exception_of_a_function_is_a_server_error() -> None:
    async with serving(fail) as server, calling(server) as client:
        with pytest.raises(ServerError, match="not in stock") as caught:
            await client.raw_call("fail")
    assert isinstance(caught.value, RPCError)


async def test_a_call_above_a_limit_is_a_too_many_request() -> None:
    none_left = Rule(day=1, max_token=1, init_token=0)
    limits = LimitProcessor("memory://", [(lambda request: request.func_name, none_left)])
    async with serving(fail, processor_list=[limits]) as server, calling(server) as client:
        with pytest.raises(TooManyRequest) as caught:
            await client.raw_call("fail")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
