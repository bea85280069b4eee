"""The client: what users hold. It finds servers, keeps connections, and makes calls."""

import functools
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

from rap.address import Address
from rap.balance import Picker, picker_from_name
from rap.client.cluster import Cluster
from rap.client.config import ClientConfig
from rap.client.dialer import Dialer
from rap.client.invoke import Invoker
from rap.client.iterate import RemoteIterator
from rap.client.plan import Plan
from rap.client.session import Session
from rap.client.stub import iterator_call, make_stub
from rap.clock import Clock, SystemClock
from rap.deadline import check_timeout
from rap.errors import ExceptionTypes
from rap.function import Function
from rap.message import Shape, Side
from rap.processor.base import BaseProcessor, Pipeline
from rap.registry import Endpoint, Registry, Resolver, StaticResolver, check_name, registry_from_url

__all__ = ["Client"]

_log = logging.getLogger("rap.client")
P = ParamSpec("P")
R = TypeVar("R")
I = TypeVar("I")  # noqa: E741

_DEFAULT_ADDRESS = "localhost:9000"


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
        host_list: str | Address | Sequence[str | Address] | None = None,
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
        self.config = ClientConfig(**options)
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._picker = picker_from_name(picker, self._rng)
        self._service, self._resolver, self._owns_resolver = _discovery(
            host_list, service, registry
        )
        self._types = ExceptionTypes()
        self._dialer = Dialer(
            self.config,
            self._clock,
            self._types,
            pinned_path=ssl_crt_path,
            ca_path=ssl_ca_path,
            crt_path=ssl_client_crt_path,
            key_path=ssl_client_key_path,
        )
        self._processors: list[BaseProcessor] = []
        self.load_processor(processor_list)
        self.connected: Invoker | None = None  # what makes the calls, while connected
        self.monotonic = self._clock.monotonic
        self._closed = False
        self._plans: dict[Any, Plan] = {}

    # Set-up.

    def load_processor(self, processor_list: Iterable[BaseProcessor]) -> None:
        """Add processors; before `connect`.

        Raises:
            TypeError: One is no `BaseProcessor`.
            ValueError: One is loaded already.
            RuntimeError: The client is connected.
        """
        for processor in processor_list:
            if not isinstance(processor, BaseProcessor):
                raise TypeError(f"load_processor takes BaseProcessor objects, got {processor!r}")
            if any(processor is each for each in self._processors):
                raise ValueError(f"{processor!r} is loaded already")
            if self.connected is not None:
                raise RuntimeError("load processors before connect()")
            self._processors.append(processor)

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
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator that makes an ``async def`` the twin of a server's function.

        Args:
            name: Its name on the server; by default the function's.
            group: Its group on the server.
            enable_type_check: Check arguments before sending.
            timeout: Seconds a call may take; by default the client's for unary functions.
            idempotent: Calling twice has the effect of once, so a call whose connection was lost
                is made again on another server.

        Raises:
            TypeError: The function is no ``async def``.
            RegistrationError: Its hints are missing or cannot be sent.
        """
        if callable(name):
            raise TypeError("write @client.register() with parentheses")
        check_timeout("timeout", timeout)

        def decorate(func: Callable[P, R]) -> Callable[P, R]:
            if not (inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)):
                raise TypeError(f"@client.register needs an `async def` function, got {func!r}")
            function = Function.of(func)
            plan = self._plan(name or function.name, group, function, timeout, idempotent, enable_type_check)  # fmt: skip  # noqa: E501
            return make_stub(self, plan, func)

        return decorate

    def bind(
        self,
        interface: type[I],
        group: str | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> I:
        """Return an object whose methods are the remote twins of those of a class or `Protocol`.

        Args:
            interface: Declares the methods, each with `self` and type hints.
            group: Their group on the server; by default the name of the class.
            timeout: Seconds a call may take.
            idempotent: As in `register`, for all methods.

        Raises:
            RegistrationError: Hints are missing or cannot be sent, or there is no method.
        """
        check_timeout("timeout", timeout)
        methods: dict[str, Any] = {}
        for name, declared in inspect.getmembers(interface, inspect.isfunction):
            if name.startswith("_"):
                continue
            function = Function.of(functools.partial(declared, None), name=name)
            plan = self._plan(name, group or interface.__name__, function, timeout, idempotent)
            methods[name] = staticmethod(make_stub(self, plan, declared))
        if not methods:
            raise TypeError(f"{interface!r} declares no public method")
        bound: I = type(f"{interface.__name__}Stub", (), methods)()
        return bound

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
            cluster = Cluster(
                self._service,
                self._resolver,
                self._picker,
                self._dialer.dial,
                self.config,
                self._clock,
                self._rng,
            )
            pipeline = Pipeline(self._processors, Side.CLIENT)
            self.connected = Invoker(
                cluster, pipeline, self._clock, self._rng, self.config.max_attempts
            )
            cluster.start()
        await self.connected.acquire(self._clock.monotonic() + self.config.connect_timeout)

    async def await_close(self) -> None:
        """Close every connection; calls that are open fail."""
        self._closed = True
        invoker, self.connected = self.connected, None
        if invoker is not None:
            await invoker.cluster.close()
        if self._owns_resolver:
            self._owns_resolver = False
            await self._resolver.aclose()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.await_close()

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
            arg_param: The arguments as a list, instead of `args`.
            kwarg_param: Keyword arguments, also such as are named like an option here.
            kwargs: Its keyword arguments.

        Raises:
            CallError: The call failed.
        """
        plan = self._named_plan(name, group)
        if arg_param is not None and args:
            raise TypeError("give the arguments as args or as arg_param, not both")
        return await self.invoker.unary(
            plan,
            tuple(arg_param) if arg_param is not None else args,
            {**kwargs, **(kwarg_param or {})},
            session=session,
            header=header,
            timeout=plan.timeout if check_timeout("timeout", timeout) is None else timeout,
        )

    async def call(
        self,
        func: Callable[..., Any],
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the server's function that has the name and hints of a local one.

        Args:
            func: Declares the function; never run.
            args: See `raw_call`, as for the other arguments.
        """
        plan = self._function_plan(func, group)
        if arg_param is not None and args:
            raise TypeError("give the arguments as args or as arg_param, not both")
        return await self.invoker.unary(
            plan,
            tuple(arg_param) if arg_param is not None else args,
            {**kwargs, **(kwarg_param or {})},
            session=session,
            header=header,
            timeout=plan.timeout if check_timeout("timeout", timeout) is None else timeout,
        )

    def iterator_call(
        self,
        func: Callable[..., Any] | str,
        *args: Any,
        group: str | None = None,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> RemoteIterator:
        """Return an iterator over what the server's generator yields.

        Args:
            func: Declares the generator, or is its name.
            args: See `raw_call`, as for the other arguments.
        """
        if isinstance(func, str):
            plan = self._named_plan(func, group, stream=True)
        else:
            plan = self._function_plan(func, group)
        check_timeout("timeout", timeout)
        return iterator_call(
            self.invoker, plan, args, kwargs, session=session, header=header, timeout=timeout
        )

    # Plans.

    def _plan(
        self,
        name: str,
        group: str | None,
        function: Function | None,
        timeout: float | None,
        idempotent: bool = False,
        check: bool = True,
        *,
        stream: bool = False,
    ) -> Plan:
        unary = function.shape is Shape.UNARY if function is not None else not stream
        limit = self.config.timeout if timeout is None and unary else timeout
        return Plan(name, group, function, timeout=limit, idempotent=idempotent, check=check)

    def _named_plan(self, name: str, group: str | None, *, stream: bool = False) -> Plan:
        key = (name, group, stream)
        plan = self._plans.get(key)
        if plan is None:
            if not isinstance(name, str) or not name:
                raise TypeError(f"the name of a function must be a string, got {name!r}")
            plan = self._plan(name, group, None, None, stream=stream)
            if len(self._plans) < 4096:
                self._plans[key] = plan
        return plan

    def _function_plan(self, func: Callable[..., Any], group: str | None) -> Plan:
        declared: Plan | None = getattr(func, "__rap_plan__", None)
        if declared is not None and group is None:
            return declared
        key = (func, group)
        plan = self._plans.get(key)
        if plan is None:
            function = Function.of(func)
            plan = self._plan(function.name, group, function, None)
            if len(self._plans) < 4096:
                self._plans[key] = plan
        return plan

    async def execute(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function or a name, as `Session.execute` does."""
        if isinstance(target, str):
            return await self.raw_call(target, arg_param=args, kwarg_param=kwargs)
        return await self.call(target, arg_param=args, kwarg_param=kwargs)


def _discovery(
    host_list: str | Address | Sequence[str | Address] | None,
    service: str | None,
    registry: str | Registry | Resolver | None,
) -> tuple[str, Resolver, bool]:
    """Return service name, resolver, and whether the client must close the resolver."""
    if registry is None:
        if service is not None:
            raise ValueError(f"service={service!r} needs registry: where to find its servers")
        hosts = _DEFAULT_ADDRESS if host_list is None else host_list
        addresses = [hosts] if isinstance(hosts, str | Address) else list(hosts)
        if not addresses:
            raise ValueError("host_list must name at least one address, got an empty list")
        parsed = [Address.parse(each, option="host_list") for each in addresses]
        return "", StaticResolver([Endpoint(str(each), each) for each in parsed]), True
    if host_list is not None:
        raise ValueError("give host_list or registry, not both")
    if service is None:
        raise ValueError("registry needs service: the name of the service to call")
    check_name("service", service)
    if isinstance(registry, str):
        return service, registry_from_url(registry), True
    return service, registry, False
