"""The client: what users hold. It finds servers, keeps connections, and makes calls."""

import inspect
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

from rap.balance import Picker, picker_from_name, wants_reports
from rap.call import Side, StreamType
from rap.client.call import Invoker
from rap.client.cluster import Cluster
from rap.client.config import ClientConfig
from rap.client.dialer import Dialer
from rap.client.inject import get_raw_func, inject, recovery
from rap.client.method import MethodCache, merge_arguments
from rap.client.response_stream import ResponseStream
from rap.client.retry import check_options
from rap.client.session import Session, innermost_session
from rap.client.stub import bind_interface, iterator_call, make_stub
from rap.client.target import Hosts, parse_target
from rap.clock import NEVER, Clock, check_timeout, clock_of, random_of
from rap.errors import ConnectionClosed, ExceptionTypes
from rap.options import check_flag, make_config
from rap.processor.base import BaseProcessor, Pipeline, add_processors
from rap.registry import Registry, Resolver
from rap.schema.function import Function

__all__ = ["Client"]

_log = logging.getLogger("rap.client")
P = ParamSpec("P")
R = TypeVar("R")
I = TypeVar("I")  # noqa: E741


class Client:
    """Calls functions of servers.

    Args:
        host_list: One address or a list of addresses; nothing: ``localhost:9000``.
        service: Name of the service to find in `registry`.
        registry: URL or object where servers are found; instead of `host_list`.
        picker: Name of a balancing policy, or a `Picker`.
        ssl_crt_path: PEM file of the one certificate the server must present.
        ssl_ca_path: PEM file of the authorities of the server's certificate; chain and host name
            are checked.
        ssl_client_crt_path: PEM file of this client's certificate, for mutual TLS.
        ssl_client_key_path: PEM file of its key.
        processor_list: In the order in which outbound messages pass them.
        clock: Source of time.
        rng: Source of chance.
        options: The options of `ClientConfig`.

    Raises:
        ValueError: An option has a bad value; the message names it.
        TypeError: An option does not exist.
    """

    def __init__(
        self,
        host_list: Hosts = None,
        *,
        service: str | None = None,
        registry: str | Registry | Resolver | None = None,
        picker: str | Picker = "p2c",
        ssl_crt_path: str | None = None,
        ssl_ca_path: str | None = None,
        ssl_client_crt_path: str | None = None,
        ssl_client_key_path: str | None = None,
        processor_list: Iterable[BaseProcessor] = (),
        clock: Clock | None = None,
        rng: random.Random | None = None,
        **options: Any,
    ) -> None:
        self.config = make_config(Client, ClientConfig, options)
        self._clock = clock_of(clock)
        self._rng = random_of(rng)
        self._picker = picker_from_name(picker, self._rng, self.config.zone, self._clock.monotonic)
        self._target = parse_target(host_list, service, registry)
        self._types = ExceptionTypes()
        self._dialer = Dialer(
            self.config,
            self._clock,
            self._types,
            reports=wants_reports(self._picker),
            pinned_path=ssl_crt_path,
            ca_path=ssl_ca_path,
            crt_path=ssl_client_crt_path,
            key_path=ssl_client_key_path,
        )
        self.connected: Invoker | None = None  # what makes the calls, while connected
        self._processors: list[BaseProcessor] = []
        add_processors("processor_list", self._processors, processor_list, Side.CLIENT)
        self.monotonic = self._clock.monotonic
        self.identity = object()  # what its sessions know it by
        self._cluster: Cluster | None = None
        self._closed = False
        self._methods = MethodCache(self.config.timeout)

    def load_processor(self, processor_list: Iterable[BaseProcessor]) -> None:
        """Add processors; before `connect`.

        Raises:
            TypeError: One is no `BaseProcessor`, or for servers only.
            ValueError: One is loaded already.
            RuntimeError: The client is connected.
        """
        if self.connected is not None:
            raise RuntimeError("load processors before connect()")
        add_processors("load_processor", self._processors, processor_list, Side.CLIENT)

    def load_exception(self, exceptions: Iterable[type[Exception]]) -> None:
        """Let errors of servers arrive as these exception types.

        Raises:
            TypeError: An entry is no exception class.
        """
        self._types.load(exceptions)

    def register(
        self,
        name: str = "",
        group: str | None = None,
        enable_type_check: bool = True,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        hedge: bool | float | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator that makes an ``async def`` the twin of a server's function.

        Args:
            name: Its name on the server; by default the function's.
            group: Its group on the server.
            enable_type_check: Check arguments before sending.
            timeout: Seconds a call may take; by default the client's for unary functions.
            idempotent: Calling twice has the effect of once, so a call whose connection was lost
                is made again on another server.
            hedge: A call that is not answered in so many seconds, or with `True` within the time
                that 95 % of them take, is sent to a second server, too; the first answer counts.
                It needs `idempotent`, and a unary function.

        Raises:
            TypeError: The function is no ``async def``, or `name` no string.
            ValueError: An option is no number, or no bool, that it can be.
            RegistrationError: Its hints are missing or cannot be sent.
        """
        if callable(name):
            raise TypeError("write @client.register() with parentheses")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        check_options(timeout, idempotent, hedge)
        check_flag("enable_type_check", enable_type_check)

        def decorate(func: Callable[P, R]) -> Callable[P, R]:
            if not (inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)):
                raise TypeError(f"@client.register needs an `async def` function, got {func!r}")
            function = Function.of(func)
            options = (timeout, idempotent, enable_type_check, hedge)
            method = self._methods.make(name or function.name, group, function, *options)
            return make_stub(self, method, func)

        return decorate

    def bind(
        self,
        interface: Callable[..., I],
        group: str | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        hedge: bool | float | None = None,
    ) -> I:
        """Return an object whose methods are the remote twins of those of a class or `Protocol`.

        Args:
            interface: Declares the methods, each with `self` and type hints.
            group: Their group on the server; by default the name of the class.
            timeout: Seconds a call may take.
            idempotent: As in `register`, for all methods.
            hedge: As in `register`, for unary methods.

        Raises:
            RegistrationError: Hints are missing or cannot be sent.
            TypeError: It declares no public method.
        """
        return bind_interface(self, self._methods, interface, group, timeout, idempotent, hedge)

    inject = inject
    recovery = staticmethod(recovery)
    get_raw_func = staticmethod(get_raw_func)

    # Life.

    @property
    def invoker(self) -> Invoker:
        """What makes the calls.

        Raises:
            RuntimeError: The client is not connected, or was closed.
        """
        if self.connected is None:
            what = (
                "was closed" if self._closed else "is not connected; await client.connect() first"
            )
            raise RuntimeError(f"the client {what}")
        return self.connected

    @property
    def cluster(self) -> Cluster:
        """The servers the client knows."""
        return self.invoker.cluster

    async def connect(self) -> None:
        """Return when one server has answered; may be called again after a failure.

        Raises:
            Unavailable: None did within `connect_timeout`; the client goes on trying.
            RuntimeError: The client was closed.
        """
        if self._closed:
            raise RuntimeError("the client was closed; make a new one")
        if self.connected is None:
            cluster = self._cluster = Cluster(
                self._target.service,
                self._target.resolver,
                self._picker,
                self._dialer.dial,
                self.config,
                self._clock,
                self._rng,
            )
            pipeline = Pipeline(self._processors, Side.CLIENT)
            self.connected = Invoker(
                cluster, pipeline, self._clock, self._rng, self.config, self.identity
            )
            cluster.start()
        cluster = self.connected.cluster
        await cluster.acquire(NEVER)

    async def await_close(self) -> None:
        """Close every connection; calls that are open fail. May be called again."""
        self._closed = True
        self.connected = None
        if self._cluster is not None:
            await self._cluster.close()
            self._cluster = None
        if self._target.owned:
            await self._target.resolver.aclose()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.await_close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.await_close()

    def disown(self) -> None:
        """Mark every connection as lost and leave its socket alone; called in a forked child."""
        if self.connected is None:
            return
        error = ConnectionClosed(
            "the connection belongs to the process that this one was forked from"
        )
        for node in self.connected.cluster.nodes.values():
            for conn in node.pool.connections:
                conn.disown(error)

    def succeed(self, client: "Client") -> None:
        """Take the place of a client of the parent process, before `connect`.

        This client takes over its processors and exception types. It takes over its identity, too:
        a call in a session of that client then fails instead of leaving the session.
        """
        self._processors = list(client._processors)
        self._types.include(client._types)
        self.identity = client.identity

    # Calls.

    @property
    def session(self) -> Session:
        """A new session, for ``async with``."""
        return Session(self)

    async def raw_call(
        self,
        name: str,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function by its name.

        Args:
            name: Of the function.
            args: Its arguments.
            group: Of the function.
            session: In which to make the call; by default the one the caller is in.
            header: Sent with the call.
            timeout: Seconds; by default the client's.
            affinity: Key whose calls keep to one server, with ``picker="rendezvous"``.
            arg_param: The arguments as a list, instead of `args`.
            kwarg_param: Keyword arguments, also such as are named like an option here.
            kwargs: Its keyword arguments.

        Raises:
            CallError: The call failed.
        """
        method = self._methods.for_name(name, group)
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        limit = method.timeout if check_timeout("timeout", timeout) is None else timeout
        return await self.invoker.unary(
            method, *arguments, session=session, header=header, timeout=limit, affinity=affinity
        )

    async def call(
        self,
        func: Callable[..., Any],
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the server's function that has the name and hints of a local one.

        Args:
            func: Declares the function; never run.
            args: See `raw_call`, as for the other arguments.

        Raises:
            CallError: The call failed.
            TypeError: It is a generator or channel function.
        """
        method = self._methods.for_function(func, group)
        if method.stream_type is not StreamType.UNARY:
            raise TypeError(
                f"call is for unary functions, {method.name} is a {method.stream_type.value}"
            )
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        limit = method.timeout if check_timeout("timeout", timeout) is None else timeout
        return await self.invoker.unary(
            method, *arguments, session=session, header=header, timeout=limit, affinity=affinity
        )

    def iterator_call(
        self,
        func: Callable[..., Any] | str,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> ResponseStream:
        """Return an iterator over what the server's generator yields.

        Args:
            func: Declares the generator, or is its name.
            args: See `raw_call`, as for the other arguments.

        Raises:
            TypeError: It is no generator function.
        """
        if isinstance(func, str):
            method = self._methods.for_name(func, group, StreamType.STREAM)
        else:
            method = self._methods.for_function(func, group)
        if method.stream_type is not StreamType.STREAM:
            raise TypeError(
                f"iterator_call is for generators, {method.name} is {method.stream_type.value}"
            )
        check_timeout("timeout", timeout)
        arguments = merge_arguments(args, arg_param, kwargs, kwarg_param)
        return iterator_call(
            self.invoker, method, *arguments,
            session=session, header=header, timeout=timeout, affinity=affinity,
        )  # fmt: skip

    async def execute(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call what `Session.execute` was given, by its shape, in the session of this context.

        Raises:
            TypeError: It is nothing that can be called.
        """
        if isinstance(target, str):
            return await self.raw_call(target, arg_param=args, kwarg_param=kwargs)
        if isinstance(target, ResponseStream):
            if args or kwargs:
                raise TypeError("a pending call has its arguments already")
            target.move(innermost_session(self.invoker))
            return target
        if not callable(target) or inspect.isclass(target):
            raise TypeError(f"execute takes a pending call, a function or a name, got {target!r}")
        stream_type = self._methods.for_function(target, None).stream_type
        if stream_type is StreamType.STREAM:
            return self.iterator_call(target, arg_param=args, kwarg_param=kwargs)
        if stream_type is StreamType.CHANNEL and hasattr(target, "__rap_method__"):
            return await target(*args, **kwargs)
        return await self.call(target, arg_param=args, kwarg_param=kwargs)
