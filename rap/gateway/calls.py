"""The calls that the gateway makes: by name, and with header and trailer of the answer."""

from collections.abc import AsyncIterator
from typing import Any

from rap.call import StreamType
from rap.client import Client
from rap.client.method import Method, MethodCache
from rap.client.request_pump import client_stream
from rap.client.response_stream import ResponseStream
from rap.client.stub import iterator_call
from rap.client.unary_call import UnaryCall
from rap.gateway.request import FunctionCall, RequestOptions
from rap.schema.function import Function

__all__ = ["Caller"]


class Caller:
    """Starts calls of functions of which only the names are known.

    Args:
        client: Makes the calls.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._methods = MethodCache(client.config)

    def start(self, call: FunctionCall, options: RequestOptions) -> UnaryCall[Any]:
        """Start a unary call.

        Args:
            call: What to call.
            options: Options of the call.

        Raises:
            InvalidArgument: The arguments cannot be sent.
        """
        method = self._methods.for_name(call.name, call.group)
        limit = method.timeout if options.timeout is None else options.timeout
        return self._client.invoker.start(
            method,
            call.args,
            call.kwargs,
            header=options.header,
            timeout=limit,
            priority=options.priority,
        )

    def start_with_items(
        self, call: FunctionCall, items: AsyncIterator[Any], options: RequestOptions
    ) -> UnaryCall[Any]:
        """Start a client-streaming call; see `start`, but without a timeout by default."""
        invoker = self._client.invoker
        running = client_stream(
            invoker,
            self._method(call, _one_answer),
            [items, *call.args],
            call.kwargs,
            **options._asdict(),
        )
        return invoker.start_task(*running)

    def iterate(
        self, call: FunctionCall, items: AsyncIterator[Any] | None, options: RequestOptions
    ) -> ResponseStream[Any]:
        """Return the call of a generator or, with items, a bidirectional call; see `start`."""
        args = call.args
        if items is None:
            method = self._methods.for_name(call.name, call.group, StreamType.STREAM)
        else:
            method, args = self._method(call, _many_answers), [items, *args]
        invoker = self._client.invoker
        return iterator_call(invoker, method, args, call.kwargs, **options._asdict())

    def _method(self, call: FunctionCall, declared: Any) -> Method:
        return self._methods.make(call.name, call.group, Function.of(declared, name="call"))


# Declarations of functions that take items; any arguments may follow these.
async def _one_answer(items: AsyncIterator[Any], /, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError


async def _many_answers(
    items: AsyncIterator[Any], /, *args: Any, **kwargs: Any
) -> AsyncIterator[Any]:
    raise NotImplementedError
    yield
