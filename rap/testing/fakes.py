"""Fakes: functions of a test that answer the calls of a client, without its server."""

import inspect
import typing
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from difflib import get_close_matches
from typing import Any, Self
from unittest.mock import Mock

from rap.call import StreamType, method_path, split_method
from rap.client.client import Client
from rap.client.method import Method
from rap.client.sync.client import SyncClient
from rap.client.sync.loop_thread import LoopThread
from rap.clock import Clock
from rap.schema.function import Function
from rap.server.server import Server
from rap.transport.inproc import new_address

__all__ = ["Fakes", "fake"]

_MAX_CALLS = 10  # that an error names


def fake(
    client: Client | SyncClient,
    answers: Mapping[Any, Any] | None = None,
    /,
    *,
    strict: bool = False,
    clock: Clock | None = None,
    **named: Any,
) -> "Fakes":
    """Answer the calls of a client in a block; its servers are not asked.

    Use it as ``async with fake(client, reserve=…) as fakes`` for a `Client`, and with ``with`` for
    a `SyncClient`. Arguments and results are checked against the declaration of the client, and are
    encoded and decoded as in production. ``fakes.reserve`` is the `unittest.mock.Mock` that is
    called, so the test can assert its calls and change its answers.

    Args:
        client: The client, which must not be connected.
        answers: Answers by stub, or by name such as ``"reserve"`` or ``"stock/reserve"``: a
            function that is called with the arguments, or an exception, which is raised, or else
            the result. The function is a ``def`` or an ``async def``. For a generator, it returns
            or yields the items, and a result is a list of them.
        strict: Whether the end of the block fails if a function was called that has no answer.
            Such a call fails with `Unimplemented` in any case.
        clock: Source of time, such as a `FakeClock`. `None`: that of the client.
        named: Answers by the name of the function.

    Raises:
        ValueError: The client declares no function of a name, or several in different groups.
        RuntimeError: On entering: the client is connected.
    """
    return Fakes(client, {**(answers or {}), **named}, strict=strict, clock=clock)


class Fakes:
    """The fakes of one block; `fake` makes it.

    Args:
        client: The client.
        answers: See `fake`.
        strict: See `fake`.
        clock: See `fake`.
    """

    def __init__(
        self,
        client: Client | SyncClient,
        answers: Mapping[Any, Any],
        *,
        strict: bool,
        clock: Clock | None,
    ) -> None:
        self._client = client
        self._strict = strict
        self._clocks: dict[str, Any] = {} if clock is None else {"clock": clock}
        self._server = Server(new_address("fake"), **self._clocks)
        self._server.explain_unknown(self._refuse)
        self._unanswered: list[str] = []
        self._mocks: dict[str, Mock] = {}  # by path
        self._stack = ExitStack()
        self._async_stack = AsyncExitStack()
        for key, answer in answers.items():
            self._add(key, answer)

    @property
    def unanswered(self) -> list[str]:
        """The functions that were called and have no answer, as ``group/name``, in order."""
        return list(self._unanswered)

    def __getattr__(self, name: str) -> Mock:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: Any) -> Mock:
        """Return the mock of a function, by its stub, its name or ``group/name``.

        Raises:
            AttributeError: It has no answer.
        """
        found = [path for path in _paths(key, self._mocks) if path in self._mocks]
        if len(found) != 1:
            known = ", ".join(sorted(path[1:] for path in self._mocks)) or "none"
            text = f"there is no fake for {key!r}; those with an answer: {known}"
            raise AttributeError(f"{text}; give it one: fake(client, {key}=...)")
        return self._mocks[found[0]]

    async def __aenter__(self) -> Self:
        if isinstance(self._client, SyncClient):
            raise TypeError("fakes of a SyncClient are entered by `with`, not by `async with`")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._server)
            stack.enter_context(self._client.overridden(**self._target))
            stack.push_async_callback(self._client.close)
            await self._client.connect()
            self._async_stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: object, *exc: object) -> None:
        await self._async_stack.aclose()
        if kind is None:
            self._check()

    def __enter__(self) -> Self:
        if isinstance(self._client, Client):
            raise TypeError("fakes of a Client are entered by `async with`, not by `with`")
        with ExitStack() as stack:
            thread = LoopThread("rap fakes")
            stack.callback(lambda: thread.close(self._server.close()))
            thread.run(self._server.create_server())
            stack.enter_context(self._client.overridden(**self._target))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._stack.close()
        if kind is None:
            self._check()

    @property
    def _target(self) -> dict[str, Any]:
        """The options that lead the client here, whatever its token or its servers are."""
        (address,) = self._server.connection_manager.hosts
        return {
            "host_list": address,
            "service": None,
            "registry": None,
            "token": None,
            **self._clocks,
        }

    def _refuse(self, path: str) -> str:
        """Note a call that has no answer; return the text of its error."""
        self._unanswered.append(path[1:])
        return f"no fake answers {path[1:]}; give one to fake()"

    def _check(self) -> None:
        """Fail if a call had no answer.

        Raises:
            AssertionError: There was one, and they are strict.
        """
        if self._strict and self.unanswered:
            called = list(dict.fromkeys(self.unanswered))
            more = "" if len(called) <= _MAX_CALLS else f" and {len(called) - _MAX_CALLS} more"
            names = ", ".join(called[:_MAX_CALLS]) + more
            text = f"the code called functions that have no fake: {names}"
            raise AssertionError(f"{text}; give each an answer to fake()")

    def _add(self, key: Any, answer: Any) -> None:
        method = self._method(key)
        function = method.function
        assert function is not None
        signature = _signature_on_server(function)
        mock = _mock_of(method, signature, answer)
        self._mocks[method.path] = mock
        group, name = split_method(method.path)
        self._server.register(_handler_of(name, function, signature, mock), name, group)

    def _method(self, key: Any) -> Method:
        """Return the function that a key of `answers` means.

        Raises:
            ValueError: There is none, or more than one.
        """
        declared = self._client.methods.declared
        paths = [path for path in _paths(key, declared) if path in declared]
        if not paths:
            names = sorted({each.name for each in declared.values()})
            close = get_close_matches(str(key), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "declare it with @client.register"
            raise ValueError(f"the client declares no function {key!r}; {hint}")
        if len(paths) > 1:
            text = f"the client declares several functions {key!r}"
            raise ValueError(f"{text}: name one as {' or '.join(repr(p[1:]) for p in paths)}")
        return declared[paths[0]]


def _paths(key: Any, known: Mapping[str, object]) -> list[str]:
    """Return the paths that a stub, a name, or ``group/name`` may mean."""
    method: Method | None = getattr(key, "__rap_method__", None)
    if method is not None:
        return [method.path]
    group, separator, name = str(key).rpartition("/")
    if separator:
        return [method_path(group, name)]
    return [path for path in known if split_method(path)[1] == key]


def _signature_on_server(function: Function) -> inspect.Signature:
    """Return the signature of a function as an ``async def`` of a server declares it."""
    parameters = []
    for each in function.signature.parameters.values():
        hint = each.annotation
        if each.name == function.stream_parameter:
            hint = AsyncIterator[function.request_type]  # type: ignore[name-defined]  # a value
        elif each.name == function.channel_parameter and typing.get_args(hint):
            incoming, outgoing = typing.get_args(hint)
            hint = typing.get_origin(hint)[outgoing, incoming]
        parameters.append(each.replace(annotation=hint))
    returns = function.signature.return_annotation
    if function.stream_type in (StreamType.STREAM, StreamType.BIDI):
        returns = AsyncIterator[function.response_type]  # type: ignore[name-defined]  # a value
    return inspect.Signature(parameters, return_annotation=returns)


def _mock_of(method: Method, signature: inspect.Signature, answer: Any) -> Mock:
    """Return a mock that gives the answer, and knows the parameters of its function."""

    def spec(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a mock is called in its place")

    mock = Mock(spec=_declared(spec, signature), name=method.name)
    if callable(answer) or isinstance(answer, BaseException):
        mock.side_effect = answer
    else:
        mock.return_value = answer
    return mock


def _handler_of(
    name: str, function: Function, signature: inspect.Signature, mock: Mock
) -> Callable[..., Any]:
    """Return the function of the server that asks a mock."""

    async def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            found = mock(*args, **kwargs)
        except TypeError as exc:
            if "argument" not in str(exc):
                raise
            wanted = inspect.Signature([*signature.parameters.values()])
            raise TypeError(f"{exc}; the fake must take the arguments of {name}{wanted}") from exc
        if isinstance(found, AsyncIterable) or not inspect.isawaitable(found):
            return found  # also the items of another call, of which `await` says only what they are
        return await found

    async def yield_items(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        found = await answer(*args, **kwargs)
        if isinstance(found, AsyncIterable):
            async for item in found:
                yield item
        elif isinstance(found, Iterable | Iterator):
            for item in found:
                yield item
        else:
            raise TypeError(f"the fake of the generator {name} gave no items, but {found!r}")

    is_stream = function.stream_type in (StreamType.STREAM, StreamType.BIDI)
    handler: Callable[..., Any] = yield_items if is_stream else answer
    handler.__name__ = name
    return _declared(handler, signature)


def _declared(func: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    """Return the function, which now has the signature."""
    func.__signature__ = signature  # type: ignore[attr-defined]  # where `inspect` looks
    return func
