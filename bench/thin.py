"""The limit: the thinnest multiplexed RPC that pure Python allows.

It shows the cost of calls without the features of a framework: no flow control, no deadlines, no
cancellation, no metadata, no checks. All of its parts are chosen for speed:

- a frame is a length and a msgpack array, packed by one kept `Packer`;
- the calls that wait are futures in a dict;
- frames gather and are written at the end of the loop's turn, or every 16 frames;
- a handler's first step runs in place; only one that waits becomes a task.

Frames: ``[REQUEST, id, method, args]``, ``[RESULT, id, value]``, ``[ERROR, id, text]``,
``[STREAM, id, method, args]``, ``[ITEM, id, value]``, ``[END, id]``, ``[CHANNEL, id, method]``.
"""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from typing import Any, Self, cast

import msgpack

__all__ = ["Pipe", "ThinClient", "ThinServer"]

REQUEST, RESULT, ERROR, STREAM, ITEM, END, CHANNEL = range(7)

_LENGTH = struct.Struct(">I")
_HEAD = _LENGTH.size
_pack_length = _LENGTH.pack
_unpack_length = _LENGTH.unpack_from
_pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_unpack: Callable[[bytes | bytearray], list[Any]] = msgpack.unpackb

_BATCH = 16  # frames after which they are written before the turn ends
_STREAM_BATCH = 300  # the same while a generator produces
_STREAM_TURN = 256  # items after which a generator lets the loop run
_WRITE_BUFFER = 1 << 20  # bytes

Handler = Callable[..., Any]  # a coroutine function, a generator function, or takes a `Pipe`
Message = list[Any]


class _Resumed:
    """A coroutine that took its first step outside of a task, as something a task can await.

    Args:
        coroutine: What goes on.
        waits_for: The future that its first step yielded.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    value = yield waits_for
                except BaseException as exc:
                    waits_for = self._coroutine.throw(exc)
                else:
                    waits_for = self._coroutine.send(value)
        except StopIteration as stop:
            return stop.value


class _Protocol(asyncio.Protocol):
    """The frames in both directions, which are the same for both sides."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._out: list[bytes] = []
        self._scheduled = False
        self._batch = self._room = _BATCH
        self._rest: bytearray | None = None  # the beginning of a frame
        self._need = _HEAD  # bytes that `_rest` must have to be worth a look
        self._paused = False
        self._writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._write = self.transport.write

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    async def writable(self) -> None:
        """Wait until the transport takes more."""
        while self._paused:
            if self._writable is None:
                self._writable = self._loop.create_future()
            await asyncio.shield(self._writable)

    def send(self, message: Message) -> None:
        data = _pack(message)
        out = self._out
        out.append(_pack_length(len(data)))
        out.append(data)
        self._room -= 1
        if not self._room:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._scheduled = False
        self._room = self._batch
        out = self._out
        if out:
            self._write(b"".join(out))
            out.clear()

    def data_received(self, data: bytes | bytearray) -> None:
        rest = self._rest
        if rest is not None:
            rest += data
            if len(rest) < self._need:
                return
            data = rest
        length = len(data)
        start = 0
        on_message = self.on_message
        while length - start >= _HEAD:
            stop = start + _HEAD + _unpack_length(data, start)[0]
            if stop > length:
                self._need = stop - start
                break
            on_message(_unpack(data[start + _HEAD : stop]))
            start = stop
        else:
            self._need = _HEAD
        self._rest = None if start == length else bytearray(data[start:])

    def on_message(self, message: Message) -> None:
        raise NotImplementedError


class Pipe:
    """One end of a channel, and the queue of the items of a stream."""

    def __init__(self, protocol: _Protocol, number: int) -> None:
        self._protocol = protocol
        self._number = number
        self._items: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def feed(self, item: object) -> None:
        self._items.append(item)
        self._wake()

    def feed_end(self) -> None:
        self._ended = True
        self._wake()

    def send(self, item: object) -> None:
        self._protocol.send([ITEM, self._number, item])

    def close(self) -> None:
        self._protocol.send([END, self._number])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        items = self._items
        while not items:
            if self._ended:
                raise StopAsyncIteration
            waiter = self._waiter = self._protocol._loop.create_future()
            await waiter
        return items.popleft()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


class ThinServer(_Protocol):
    """The serving side of one connection.

    Args:
        loop: The running loop.
        handlers: By the numbers that requests name.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, handlers: Mapping[int, Handler]) -> None:
        super().__init__(loop)
        self._handlers = handlers
        self._pipes: dict[int, Pipe] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        for task in list(self._tasks):
            task.cancel()

    def on_message(self, message: Message) -> None:
        kind = message[0]
        number = message[1]
        if kind == REQUEST:
            coroutine = self._handlers[message[2]](*message[3])
            try:
                waits_for = coroutine.send(None)
            except StopIteration as stop:
                self.send([RESULT, number, stop.value])
            except Exception as exc:
                self.send([ERROR, number, repr(exc)])
            else:
                self._spawn(self._finish(number, _Resumed(coroutine, waits_for)))
        elif kind == ITEM:
            pipe = self._pipes.get(number)
            if pipe is not None:
                pipe.feed(message[2])
        elif kind == END:
            pipe = self._pipes.pop(number, None)
            if pipe is not None:
                pipe.feed_end()
        elif kind == STREAM:
            self._spawn(self._stream(number, self._handlers[message[2]](*message[3])))
        elif kind == CHANNEL:
            pipe = self._pipes[number] = Pipe(self, number)
            self._spawn(self._handlers[message[2]](pipe))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, number: int, resumed: _Resumed) -> None:
        try:
            result = await resumed
        except Exception as exc:
            self.send([ERROR, number, repr(exc)])
        else:
            self.send([RESULT, number, result])

    async def _stream(self, number: int, items: AsyncIterator[Any]) -> None:
        count = 0
        self._batch = _STREAM_BATCH
        async for item in items:
            self.send([ITEM, number, item])
            count += 1
            if not count % _STREAM_TURN:
                self.flush()
                if self._paused:
                    await self.writable()
                else:
                    await asyncio.sleep(0)
        self._batch = _BATCH
        self.send([END, number])


class ThinClient(_Protocol):
    """The calling side of one connection.

    Args:
        loop: The running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._last = 0
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._pipes: dict[int, Pipe] = {}
        self._new_future = loop.create_future

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._futures.values():
            if not future.done():
                future.set_exception(ConnectionError("the connection was lost"))

    def on_message(self, message: Message) -> None:
        kind = message[0]
        if kind == RESULT:
            future = self._futures.pop(message[1])
            if not future.done():
                future.set_result(message[2])
        elif kind == ITEM:
            self._pipes[message[1]].feed(message[2])
        elif kind == END:
            self._pipes.pop(message[1]).feed_end()
        elif kind == ERROR:
            future = self._futures.pop(message[1])
            if not future.done():
                future.set_exception(RuntimeError(message[2]))

    def call(self, method: int, args: tuple[Any, ...]) -> asyncio.Future[Any]:
        number = self._last = self._last + 1
        future = self._futures[number] = self._new_future()
        self.send([REQUEST, number, method, args])
        return future

    def stream(self, method: int, args: tuple[Any, ...]) -> Pipe:
        pipe = self._new_pipe()
        self.send([STREAM, self._last, method, args])
        return pipe

    def channel(self, method: int) -> Pipe:
        pipe = self._new_pipe()
        self.send([CHANNEL, self._last, method])
        return pipe

    def _new_pipe(self) -> Pipe:
        self._last += 1
        pipe = self._pipes[self._last] = Pipe(self, self._last)
        return pipe
