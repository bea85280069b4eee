"""The record of one inbound call: its stream, its handler, its task."""

import asyncio
from typing import Any

from rap.call import Call, Header, Request, Side, StreamType
from rap.errors import CallError
from rap.server.router import Handler
from rap.transport.stream import Stream

__all__ = ["ServerStream"]

_SERVER = Side.SERVER  # look-ups are slow


class ServerStream(Stream):
    """One inbound call; set by the dispatcher when the stream is opened."""

    handler: Handler
    route: tuple[Handler, float, Header, Any]  # the third is the header, shared with other calls
    body: bytes | memoryview
    processed: Request | None = None
    began = False  # the handler has run, in calls that pass processors
    failed = False  # it ended by an error
    task: asyncio.Task[None] | None = None
    call: Call | None = None

    @property
    def deadline_text(self) -> str:
        """Which limit it is that passed, for the error."""
        handler, limit, _, _ = self.route
        if limit < handler.run_timeout:
            return f"{handler.method}: the caller's deadline passed"
        return f"{handler.method}: its run_timeout of {limit:g} s passed"

    def fail(self, error: CallError) -> None:
        """End the call with `error`: the peer reset it, its deadline passed, or it was lost."""
        super().fail(error)
        task = self.task
        if task is not None and not task.done():
            self.conn.keep_task(task)
            task.cancel()

    def as_call(self) -> Call:
        """Return the `Call`; it is made when somebody asks."""
        call = self.call
        if call is None:
            handler = self.handler
            header = {**self.route[2]}
            call = self.call = Call(
                handler.method, handler.stream_type, _SERVER, header, self.deadline, self.conn.peer
            )
        return call

    @property
    def header(self) -> Header:
        """What the client sent when it opened the call."""
        return self.route[2] if self.call is None else self.call.header

    def request(self) -> Request:
        """Return the request being served, as `context.request` shows it."""
        if self.processed is not None:
            return self.processed
        call = self.as_call()
        if self.handler.stream_type is StreamType.CHANNEL:
            return Request(call, None, call.header)
        args, kwargs = self.handler.function.decode_call(self.body)
        return Request(call, [list(args), dict(kwargs)] if kwargs else list(args), call.header)
