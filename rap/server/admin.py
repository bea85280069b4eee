"""The private group ``registry``: lists the functions of a server, and loads functions into it.

Loading imports code, so ``load`` and ``reload`` exist only if the server allows it. Like all
private functions, only clients on the same machine may call them.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypedDict

from rap.call import StreamType, method_path
from rap.errors import InvalidArgument, NotFound, RegistrationError
from rap.schema.description import FunctionDescription
from rap.server.router import Handler, Router

__all__ = ["GROUP", "Admin", "FunctionEntry"]

GROUP = "registry"


class FunctionEntry(TypedDict):
    """A function in a listing.

    ``shape`` is its stream type, and ``func_type`` is ``channel`` or ``normal``.
    """

    group: str
    shape: str
    func_type: str
    is_gen_func: bool
    is_private: bool
    doc: str
    func_name: str
    module_name: str
    module_file: str
    signature: str


class Admin:
    """Registers and implements the functions of the group ``registry``.

    Args:
        router: The registered functions.
        allow_load: Whether to register ``load`` and ``reload`` too.
    """

    def __init__(self, router: Router, *, allow_load: bool) -> None:
        self._router = router
        self._lock = asyncio.Lock()  # one import at a time
        functions: list[tuple[str, Callable[..., Any]]] = [
            ("list", self.list_functions),
            ("describe", self.describe),
        ]
        if allow_load:
            functions += [("load", self.load), ("reload", self.reload)]
        for name, func in functions:
            router.register(func, name, GROUP, is_private=True, priority="critical")

    async def list_functions(self) -> list[FunctionEntry]:
        """Return all registered functions."""
        return [_describe(handler) for handler in self._router]

    async def describe(self, name: str, group: str | None = None) -> FunctionDescription:
        """Return what callers need to know about a function, types included.

        Args:
            name: Name of the function.
            group: Group of the function; by default ``default``.
        """
        method = method_path(group, name)
        handler = self._router.find(method)
        if handler is None:
            raise NotFound(f"describe: no function {method!r} on this server")
        from rap.schema.reflection import describe  # few servers are asked

        return describe(handler)

    async def load(
        self,
        path: str,
        func_str: str,
        name: str | None = None,
        group: str | None = None,
        is_private: bool = False,
        doc: str | None = None,
    ) -> FunctionEntry:
        """Import a function and register it; return its entry.

        Args:
            path: Dotted name of the module.
            func_str: Name of the function in the module; dotted for a method.
            name: Name that clients use; by default the name of the function.
            group: Group of the function; by default ``default``.
            is_private: Whether only clients on the same machine may call it.
            doc: Description of the function; by default its docstring.
        """
        from rap.server.code import import_function  # few servers allow it

        async with self._lock:
            func = await asyncio.to_thread(import_function, path, func_str)
        try:
            handler = self._router.register(func, name, group, is_private=is_private, doc=doc)
        except RegistrationError as exc:
            raise InvalidArgument(f"load {func_str!r} of {path!r}: {exc}") from exc
        return _describe(handler)

    async def reload(
        self,
        path: str,
        func_str: str,
        name: str | None = None,
        group: str | None = None,
        is_private: bool | None = None,
        doc: str | None = None,
    ) -> FunctionEntry:
        """Run the source of a module again, and replace a registered function with the new one.

        Running calls finish with the old function and its old module. If the source cannot be run,
        nothing changes.

        Args:
            path: Dotted name of the module.
            func_str: Name of the function in the module; dotted for a method.
            name: Name that clients use; by default the name of the function.
            group: Group of the function; by default ``default``.
            is_private: Whether only clients on the same machine may call it; by default unchanged.
            doc: Description of the function; by default its docstring.
        """
        from rap.server.code import reimport_function  # few servers allow it

        method = method_path(group, name or func_str.rpartition(".")[2])
        async with self._lock:
            if self._router.find(method) is None:
                raise NotFound(f"reload: no function {method!r} on this server; load it first")
            func = await asyncio.to_thread(reimport_function, path, func_str)
            old = self._router.find(method)
            assert old is not None
            try:
                handler = self._router.make(
                    func,
                    old.name,
                    old.group,
                    is_private=old.is_private if is_private is None else is_private,
                    doc=doc,
                    idempotent=old.idempotent,
                    inline=old.inline and not inspect.iscoroutinefunction(func),
                )
            except RegistrationError as exc:
                raise InvalidArgument(f"reload {func_str!r} of {path!r}: {exc}") from exc
            self._router.replace(handler)
        return _describe(handler)


def _describe(handler: Handler) -> FunctionEntry:
    target = inspect.unwrap(handler.func)
    target = getattr(target, "__func__", target)
    module = inspect.getmodule(target)
    return {
        "group": handler.group,
        "shape": handler.stream_type.value,
        "func_type": "channel" if handler.stream_type is StreamType.CHANNEL else "normal",
        "is_gen_func": handler.stream_type in (StreamType.STREAM, StreamType.BIDI),
        "is_private": handler.is_private,
        "doc": handler.doc,
        "func_name": handler.name,
        "module_name": str(getattr(target, "__module__", "")),
        "module_file": str(getattr(module, "__file__", None) or ""),
        "signature": str(handler.function.signature),
    }
