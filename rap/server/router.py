"""The registered functions of a server: a mapping of ``/group/name`` to `Handler`."""

import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from rap.call import DEFAULT_GROUP, DEFAULT_PRIORITY, PRIORITIES, StreamType, method_path
from rap.clock import NEVER
from rap.errors import RegistrationError, Unimplemented
from rap.foreign import one_line
from rap.options import checks_options
from rap.record import Struct
from rap.schema.function import Function
from rap.schema.markers import is_marked, is_marked_in
from rap.schema.signature import is_plain_iterator
from rap.server.authorization import Allow, Predicate, allow_rule, both
from rap.server.config import HandlerOptions, check_path

__all__ = ["Handler", "Router", "public_methods"]

_MAX_GROUPS = 10  # named in the error of an unknown function
_MAX_NAME = 64  # characters of a name for which a similar one is looked for


class Handler(Struct):
    """One registered function.

    Args:
        method: ``/group/name``.
        group: Group of the function.
        name: Name of the function within the group.
        func: The function.
        function: Its signature, as the annotations declare it.
        is_private: Whether only clients on the same machine may call it.
        idempotent: Whether calling twice has the effect of calling once; shown in listings.
        run_timeout: Seconds that it may run; `NEVER` for no limit.
        default_timeout: Seconds that it may run if the caller sets no deadline.
        priority: Index in `rap.call.PRIORITIES` of the priority of calls that name none.
        max_concurrency: Maximum number of calls that run at a time; `None`: any number.
        inline: Whether a ``def`` runs on the event loop.
        doc: Description, shown in listings.
        stream_type: How many messages each side may send.
        allow: Returns `True` for the calls that may be made; `None` allows all.

    Attributes:
        reads_stream: Whether the client sends messages after the arguments.
        has_one_response: Whether the response is one message.
        takes_nothing: Whether it is a channel function without other parameters.
        needs_thread: Whether it runs in a thread.
    """

    method: str
    group: str
    name: str
    func: Callable[..., Any]
    function: Function
    is_private: bool
    idempotent: bool
    run_timeout: float
    inline: bool
    doc: str
    stream_type: StreamType
    allow: Predicate | None = None
    default_timeout: float = NEVER
    priority: int = DEFAULT_PRIORITY
    max_concurrency: int | None = None
    needs_thread: bool = False
    reads_stream: bool = False
    has_one_response: bool = True
    takes_nothing: bool = False

    def __post_init__(self) -> None:
        """Derive what each call asks for."""
        function, stream_type = self.function, self.stream_type
        self.reads_stream = stream_type.client_streams
        self.has_one_response = not stream_type.server_streams
        is_channel = stream_type is StreamType.CHANNEL
        self.needs_thread = not (function.is_async or self.inline)
        self.takes_nothing = is_channel and len(function.signature.parameters) == 1


class Router:
    """Handlers by method.

    Args:
        run_timeout: Seconds for unary functions without an own `run_timeout`; `None` means no
            limit.
        is_limit: Whether that also holds for callers that allow more time. Otherwise it is the
            default for callers that set no deadline.
    """

    def __init__(self, run_timeout: float | None, *, is_limit: bool = True) -> None:
        self._on_replace: Callable[[], None] | None = None
        self._explain: Callable[[str], str] | None = None
        self._handlers: dict[str, Handler] = {}
        self._rules: dict[str, Predicate] = {}
        self._run_timeout = NEVER if run_timeout is None else run_timeout
        self._is_limit = is_limit

    def __iter__(self) -> Iterator[Handler]:
        return iter(self._handlers.values())

    def register(
        self,
        func: Callable[..., Any],
        name: str | None = None,
        group: str | None = None,
        *,
        is_private: bool = False,
        doc: str | None = None,
        idempotent: bool = False,
        run_timeout: float | None = None,
        inline: bool = False,
        allow: Allow | None = None,
        priority: str | None = None,
        max_concurrency: int | None = None,
    ) -> Handler:
        """Register a function.

        Raises:
            RegistrationError: Type hints are missing, values of a type cannot be sent, the name is
                taken, or `allow` is invalid.
            ValueError: `run_timeout` is not a positive number, a flag is not a bool, or there is no
                such priority.
        """
        handler = self.make(
            func,
            name,
            group,
            is_private=is_private,
            doc=doc,
            idempotent=idempotent,
            run_timeout=run_timeout,
            inline=inline,
            priority=priority,
            max_concurrency=max_concurrency,
        )
        self._add([handler], allow)
        return handler

    def register_methods(
        self, owner: Any, group: str | None, *, allow: Allow | None = None, **options: Any
    ) -> None:
        """Register the public methods of an object or a class: all of them, or none.

        Raises:
            RegistrationError: See `register`; or there are no public methods, or the class cannot
                be instantiated without arguments.
        """
        instance = owner
        if inspect.isclass(owner):
            try:
                instance = owner()
            except Exception as exc:  # of the user's constructor
                raise RegistrationError(
                    f"{owner.__name__}() failed: {exc}; register an object of the class"
                ) from exc
        group = type(instance).__name__ if group is None else group
        self._add([self.make(it, None, group, **options) for it in public_methods(instance)], allow)

    def _add(self, handlers: list[Handler], allow: Allow | None) -> None:
        rule = allow_rule(allow)
        new: dict[str, Handler] = {}
        for handler in handlers:
            handler.allow = both(rule, self._rules.get(handler.group))
            if handler.method in self._handlers or handler.method in new:
                raise RegistrationError(
                    f"{handler.name!r} is registered already in group {handler.group!r};"
                    f" give one of the two another name= or group="
                )
            new[handler.method] = handler
        self._handlers |= new

    def allow_group(self, group: str, allow: Allow) -> None:
        """Add a rule for all functions of a group, in addition to their rules.

        Raises:
            RegistrationError: `group` is not the name of a group, or `allow` is neither a function
                nor a collection of names.
        """
        check_path(group, "group")
        rule = allow_rule(allow)
        if rule is None:
            raise RegistrationError("allow must be a function or a set of names, got None")
        self._rules[group] = both(self._rules.get(group), rule) or rule
        for handler in self._handlers.values():
            if handler.group == group:
                handler.allow = both(handler.allow, rule)

    def replace(self, handler: Handler) -> None:
        """Replace the handler of the same method; running calls finish with the old one.

        The new handler keeps the rules, the priority and the limit of running calls of the old one,
        and if it has the same stream type, also its time limit.
        """
        old = self._handlers[handler.method]
        handler.allow = old.allow
        handler.priority = old.priority
        handler.max_concurrency = old.max_concurrency
        if handler.stream_type is old.stream_type:
            handler.run_timeout = old.run_timeout
            handler.default_timeout = old.default_timeout
        self._handlers[handler.method] = handler
        if self._on_replace is not None:
            self._on_replace()

    def notify_on_replace(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a handler was replaced; it drops cached handlers."""
        self._on_replace = callback

    def explain_unknown(self, explain: Callable[[str], str]) -> None:
        """Let `explain` say why there is no function ``/group/name``."""
        self._explain = explain

    @checks_options(HandlerOptions)
    def make(
        self,
        func: Callable[..., Any],
        name: str | None = None,
        group: str | None = None,
        *,
        is_private: bool = False,
        doc: str | None = None,
        idempotent: bool = False,
        run_timeout: float | None = None,
        inline: bool = False,
        priority: str | None = None,
        max_concurrency: int | None = None,
    ) -> Handler:
        """Return a handler for a function; see `register`."""
        function = Function.of(func)
        name = function.name if name is None else name
        group = DEFAULT_GROUP if group is None else group
        check_path(name, "name")
        if inline and function.is_async:
            raise RegistrationError(
                f"{name}: inline=True is for `def` functions, this is async; leave it out"
            )
        is_async = function.is_async or inspect.iscoroutinefunction(inspect.unwrap(func))
        if function.stream_type is StreamType.CHANNEL and not is_async:
            raise RegistrationError(f"{name}: a channel function is an `async def`, got {func!r}")
        if function.unsendable is not None:
            raise function.unsendable
        if function.stream_parameter is not None and not function.is_async:
            _check_plain_stream(name, function.stream_parameter, function, inline)
        method = method_path(group, name)
        limit, default = run_timeout, NEVER
        if limit is None:
            limit = self._run_timeout if function.stream_type is StreamType.UNARY else NEVER
            if not self._is_limit:
                limit, default = NEVER, limit
        text = inspect.getdoc(func) if doc is None else doc
        return Handler(
            method,
            group,
            name,
            func,
            function,
            is_private,
            idempotent or _is_repeatable(func),
            limit,
            inline,
            text or "",
            function.stream_type,
            default_timeout=default,
            priority=DEFAULT_PRIORITY if priority is None else PRIORITIES.index(priority),
            max_concurrency=max_concurrency,
        )

    def find(self, method: str) -> Handler | None:
        """Return the handler of `method`, or `None`."""
        return self._handlers.get(method)

    def unknown(self, method: str, *, sees_private: bool, hints: bool) -> Unimplemented:
        """Return the error of a call to a function that does not exist, or is hidden.

        It names no function that has a rule, because the peer may not be allowed to call it.

        Args:
            method: What was called.
            sees_private: Whether the peer may call private functions.
            hints: Whether to look for a similar name and other groups, in all functions.
        """
        if self._explain is not None:
            return Unimplemented(self._explain(method), unserved=True)
        text = f"no function {one_line(repr(method))} on this server"
        details: dict[str, Any] = {}
        _, group, name = method.split("/", 2) if method.count("/") == 2 else ("", "", "")
        if hints and name:
            visible = [
                each
                for each in self._handlers.values()
                if each.allow is None and (sees_private or not each.is_private)
            ]
            groups = sorted({each.group for each in visible if each.name == name})[:_MAX_GROUPS]
            names = [each.name for each in visible if each.group == group]
            from difflib import get_close_matches  # few servers need it

            near = get_close_matches(name, names, 1) if len(name) <= _MAX_NAME else []
            if groups:
                details["groups"] = groups
                text += f"; there is one in {_in_words(groups)}: {_how_to_name(groups[0], group)}"
            elif near:
                details["suggestion"] = near[0]
                text += f"; did you mean {near[0]!r}?"
        return Unimplemented(text, details=details, unserved=True)


def _is_repeatable(func: Callable[..., Any]) -> bool:
    """Return whether a function is marked as idempotent, or its method in a class above."""
    owner, name = getattr(func, "__self__", None), getattr(func, "__name__", "")
    return is_marked(func) or (owner is not None and is_marked_in(type(owner), name))


def _how_to_name(group: str, called: str) -> str:
    """Return what a client has to write to call a function in another group than it has called."""
    if called != DEFAULT_GROUP and called.isidentifier() and len(called) <= _MAX_NAME:
        return f"pass group={group!r}, as in client.bind({called}, group={group!r})"
    return f"pass group={group!r}"


def _in_words(groups: list[str]) -> str:
    names = ", ".join(repr(each) for each in groups)
    return f"the group {names}" if len(groups) == 1 else f"the groups {names}"


def public_methods(instance: object) -> list[Callable[..., Any]]:
    """Return the public methods of an object.

    Raises:
        RegistrationError: It has none, or is an object of a builtin type.
    """
    if type(instance).__module__ == "builtins":  # its methods are not meant to be called remotely
        raise RegistrationError(
            f"register takes a function, a class or an object with methods, got {instance!r};"
            f" to register a function, give it without calling it"
        )
    names = [name for name in dir(instance) if not name.startswith("_")]
    methods: list[Callable[..., Any]] = [
        each
        for name in names
        if not isinstance(inspect.getattr_static(instance, name), property | cached_property)
        and inspect.isroutine(each := getattr(instance, name))
    ]
    if not methods:
        raise RegistrationError(
            f"{type(instance).__qualname__} has no public method to register; define a method whose"
            f" name does not begin with '_', or register functions"
        )
    return methods


def _check_plain_stream(name: str, parameter: str, function: Function, inline: bool) -> None:
    """Check that a ``def`` can wait for the items of its request stream."""
    if inline:
        text = f"inline=True is for functions that do not wait, and {parameter!r} is a stream"
        raise RegistrationError(f"{name}: {text}")
    if not is_plain_iterator(function.type_hints[parameter]):
        text = f"a `def` reads its stream with `for`: declare {parameter!r} as Iterator[...]"
        raise RegistrationError(f"{name}: {text}, or write an `async def`")
