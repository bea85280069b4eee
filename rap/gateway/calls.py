"""The calls that the gateway makes: by name, and with header and trailer of the answer."""

from collections.abc import AsyncIterator
from typing import Any

from rap.call import StreamType
from rap.client import Client
from rap.client.channel_call import ChannelCall
from rap.client.method import Method, MethodCache
from rap.client.request_pump import client_stream
from rap.client.response_stream import ResponseStream
from rap.client.stub import iterator_call
from rap.client.unary_call import UnaryCall
from rap.errors import CallError
from rap.gateway.request import FunctionCall, RequestOptions
from rap.schema.function import Function

__all__ = ["Caller"]


class Caller:
    """Starts calls of functions of which only the names are known.

    Args:
        client: Makes the calls.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._methods = MethodCache(client.config)

    def method(self, call: FunctionCall, stream_type: StreamType) -> Method:
        """Return the method of a call without a request stream.

        Raises:
            InvalidArgument: The name cannot be sent.
        """
        return self._methods.find_name(call.name, call.group, stream_type)

    def confirm(self, method: Method, call: FunctionCall, error: CallError | None = None) -> None:
        """Keep the method of a call that a server has begun, for further calls of its function.

        HTTP clients choose the names, so those of functions that do not exist are not kept.

        Args:
            method: Of the call.
            call: What was called.
            error: How the call failed; `None` if it did not.
        """
        if error is None or (error.remote and not error.unserved):
            self._methods.keep_name(method, call.group)

    def start(self, method: Method, call: FunctionCall, options: RequestOptions) -> UnaryCall[Any]:
        """Start a unary call.

        Args:
            method: Of the call.
            call: What to call.
            options: Options of the call.

        Raises:
            InvalidArgument: The arguments cannot be sent.
        """
        limit = method.timeout if options.timeout is None else options.timeout
        return self.client.invoker.start(
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
        invoker = self.client.invoker
        running = client_stream(
            invoker,
            self._declared(call, _one_answer),
            [items, *call.args],
            call.kwargs,
            **options._asdict(),
        )
        return invoker.start_task(*running)

    def iterate(
        self, method: Method, call: FunctionCall, options: RequestOptions
    ) -> ResponseStream[Any]:
        """Return the call of a generator; see `start`."""
        return iterator_call(
            self.client.invoker, method, call.args, call.kwargs, **options._asdict()
        )

    def iterate_with_items(
        self, call: FunctionCall, items: AsyncIterator[Any], options: RequestOptions
    ) -> ResponseStream[Any]:
        """Return a bidirectional call; see `start`."""
        method, args = self._declared(call, _many_answers), [items, *call.args]
        return iterator_call(self.client.invoker, method, args, call.kwargs, **options._asdict())

    def channel(self, method: Method, call: FunctionCall, options: RequestOptions) -> ChannelCall:
        """Return the call of a channel; see `start`."""
        return ChannelCall(
            self.client,
            self.client.invoker,
            method,
            call.args,
            call.kwargs,
            header=options.header,
            priority=options.priority,
        )

    def _declared(self, call: FunctionCall, declared: Any) -> Method:
        return self._methods.make(call.name, call.group, Function.of(declared, name="call"))


# Declarations of functions that take items; any arguments may follow these.
async def _one_answer(items: AsyncIterator[Any], /, *args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError


async def _many_answers(
    items: AsyncIterator[Any], /, *args: Any, **kwargs: Any
) -> AsyncIterator[Any]:
    raise NotImplementedError
    yield
