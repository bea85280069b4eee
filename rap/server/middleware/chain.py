"""The middleware of one server: loaded, started, folded into chains and stopped."""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rap.call import Request, current
from rap.clock import Clock
from rap.errors import Internal
from rap.options import as_list
from rap.processor.base import loaded_twice, warn_of_misspelled, wrong_plug_in
from rap.server.admission import Admission, Serve
from rap.server.dispatch import ServerStream
from rap.server.hooks import run_event
from rap.server.middleware.base import Answer, BaseConnMiddleware, BaseMsgMiddleware, MsgHandler
from rap.server.signals import is_ctrl_c
from rap.server.threads import Threads
from rap.tracebacks import compact

if TYPE_CHECKING:
    from rap.server.authentication import Authenticator  # many servers have no tokens

__all__ = ["MessageChain", "Middleware", "MiddlewareStack"]

Middleware = BaseConnMiddleware | BaseMsgMiddleware


class MiddlewareStack:
    """The middleware that a server has loaded, the outermost first.

    Args:
        register: Registers a private function of the server.
        service: Name of the server's service.
        log: Logger of the server.
    """

    def __init__(self, register: Callable[..., Any], service: str, log: logging.Logger) -> None:
        self._register = register
        self._service = service
        self._log = log
        self._loaded: list[Middleware] = []
        self._started: list[Middleware] = []

    def __iter__(self) -> Iterator[Middleware]:
        return iter(self._loaded)

    def load(self, option: str, middleware_list: Iterable[Middleware]) -> None:
        """Add middleware after the middleware that is loaded already.

        Raises:
            TypeError: An object is not middleware; the message names `option`.
            ValueError: An object is already loaded, by this server or another.
            RegistrationError: The name of a private function is taken.
        """
        for middleware in as_list(option, middleware_list):
            if not isinstance(middleware, Middleware):
                kinds = "objects of BaseConnMiddleware and BaseMsgMiddleware"
                raise wrong_plug_in(option, kinds, middleware)
            if middleware.loaded:
                raise loaded_twice(option, middleware)
            is_conn = isinstance(middleware, BaseConnMiddleware)
            base = BaseConnMiddleware if is_conn else BaseMsgMiddleware
            warn_of_misspelled(option, middleware, base)
            middleware.mark_loaded(self._service)
            self._loaded.append(middleware)
            self._register_private(middleware)

    def shared_with(self, register: Callable[..., Any]) -> "MiddlewareStack":
        """Return the same middleware for another server of the process.

        Args:
            register: Registers a private function of that server.
        """
        stack = MiddlewareStack(register, self._service, self._log)
        stack._loaded = list(self._loaded)
        return stack

    async def start(self) -> None:
        """Run the start events in order."""
        for middleware in self._loaded:
            self._started.append(middleware)
            await run_event(middleware.start_event_handle)
            self._register_private(middleware)

    async def stop(self) -> None:
        """Run the stop events of what was started, in reverse order."""
        while self._started:
            middleware = self._started.pop()
            try:
                await run_event(middleware.stop_event_handle)
            except Exception:  # of an event of the user
                self._log.exception("stop_event_handle of %r failed", middleware)

    def admission(self, authenticator: "Authenticator | None" = None) -> Admission | None:
        """Return what admits connections; `None` if every client may connect."""
        chain = [it for it in self._loaded if isinstance(it, BaseConnMiddleware)]

        def fold(serve: Serve) -> Serve:
            for middleware in reversed(chain):
                serve = middleware.bind(serve)
            return serve

        return Admission(fold, self._log, authenticator) if chain or authenticator else None

    def message_chain(self, threads: Threads, clock: Clock) -> "MessageChain | None":
        """Return the chain around calls with one response; `None` without message middleware."""
        chain = [it for it in self._loaded if isinstance(it, BaseMsgMiddleware)]
        return MessageChain(chain, threads, clock, self._log) if chain else None

    def _register_private(self, middleware: Middleware) -> None:
        for func, name, group in middleware.take_private_functions():
            self._register(func, name, group)


class MessageChain:
    """Message middleware folded into one function.

    Args:
        middlewares: The first is outermost.
        threads: Where `def` handlers run.
        clock: Source of time.
        log: Logger of the server.

    Attributes:
        monotonic: Returns the time in seconds on the monotonic clock.
        exception_level: See `BaseMsgMiddleware`; the last one that changes it counts.
    """

    def __init__(
        self,
        middlewares: Sequence[BaseMsgMiddleware],
        threads: Threads,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self.monotonic = clock.monotonic
        levels = [it.exception_level for it in middlewares if it.exception_level != logging.ERROR]
        self.exception_level = levels[-1] if levels else logging.ERROR
        self._threads = threads
        self._log = log
        self._names = ", ".join(type(each).__name__ for each in middlewares)
        base = BaseMsgMiddleware.answered
        self._answered = [it.answered for it in middlewares if type(it).answered is not base]
        handler: MsgHandler = self._call
        for middleware in reversed(middlewares):
            handler = middleware.bind(handler)
        self._handler = handler

    async def run(
        self,
        stream: ServerStream,
        request: Request,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
    ) -> Any:
        """Run the handler inside the middleware; return its result, or raise what ended the call.

        Args:
            stream: The call.
            request: The request, after the processors.
            args: Positional arguments.
            kwargs: Keyword arguments.
        """
        func = stream.handler.func
        answer = await self._handler(request, stream.id, func, list(args), kwargs)
        match answer:
            case (_, Exception() as exc):
                raise exc
            case (_, result):
                return result
        raise Internal(
            f"dispatch of message middleware ({self._names}) must return (call_id, result), got"
            f" {answer!r}; end it with `return await self.call_next(...)`"
        )

    def answered(
        self, stream: ServerStream, error: BaseException | None, began: float, size: int
    ) -> None:
        """Call `answered` of the middleware that overrides it.

        Args:
            stream: The call.
            error: The exception that ended it; `None` for a result.
            began: When it began, in seconds on the monotonic clock.
            size: Bytes of the response.
        """
        duration = self.monotonic() - began
        answer = Answer(
            stream.as_call(), error, duration, len(stream.body) + stream.items_size, size
        )
        for answered in self._answered:
            try:
                answered(answer)
            except BaseException as exc:  # of a callback of the user
                if is_ctrl_c(exc):
                    raise
                self._log.exception("%r failed", answered, exc_info=compact(exc))

    async def _call(
        self,
        request: Request,
        call_id: int,
        func: Callable[..., Any],
        param: Sequence[Any],
        default_param: Mapping[str, Any] | None = None,
    ) -> tuple[int, Any]:
        """Call the function, which the middleware may have replaced."""
        stream = current.get()
        assert isinstance(stream, ServerStream)
        handler = stream.handler
        try:
            if handler.function.is_async or handler.inline:
                result = func(*param, **(default_param or {}))
            else:
                result = await self._threads.run(func, param, default_param)
            if inspect.isawaitable(result):
                result = await result
        except Exception as exc:  # of the handler; the result carries it
            return call_id, exc
        return call_id, result
