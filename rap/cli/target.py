"""The server of a program, named as ``module:attribute``."""

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rap.cli.command import ProgramError
from rap.schema.signature import signature_of
from rap.server import Server

__all__ = ["load_server", "search_here"]


def load_server(target: str) -> Server:
    """Import a server, or import the function that makes it and call it without arguments.

    The current directory is searched first, as with ``python -m``.

    Args:
        target: The server, such as ``package.module:server``.

    Raises:
        ValueError: There is no such module or attribute, or it is not a server.
        ProgramError: The module, or the function that makes the server, has raised an exception.
    """
    name, separator, attribute = target.partition(":")
    if not (name and separator and attribute):
        hint = f", such as {Path(name).stem or 'module'}:server"
        raise ValueError(f"{target!r} has not the form module:server{hint}")
    here = search_here()
    is_new = name not in sys.modules
    try:
        found: object = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(f"{exc.name}.")):
            raise ProgramError(f"{name!r} cannot be imported", exc) from exc
        hint = f"; write it as {name[:-3]}:{attribute}" if name.endswith(".py") else ""
        hint = hint or "; run this in the folder of the module, or set PYTHONPATH"
        raise ValueError(f"{target!r}: there is no module {exc.name!r} in {here}{hint}") from exc
    except Exception as exc:  # whatever the program raises
        raise ProgramError(f"{name!r} cannot be imported", exc) from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = _servers_in(sys.modules[name])
            raise ValueError(f"{target!r}: module {name!r} has no {attribute!r}; {hint}")
        found = getattr(found, part)
    if not isinstance(found, Server) and callable(found):
        found = _made_by(found, target)
    if not isinstance(found, Server):
        if inspect.iscoroutine(found):
            found.close()  # it is never awaited, and Python need not warn of that, too
        what = f"must be a rap.server.Server, got {type(found).__name__}"
        raise ValueError(f"{target!r} {what}; {_servers_in(sys.modules[name])}")
    if is_new and found.addresses:
        raise ValueError(
            f"{target!r} was run by its own module: put that under `if __name__ == '__main__':`"
        )
    return found


def search_here() -> str:
    """Search the current directory first for modules, as with ``python -m``; return it."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def _servers_in(module: ModuleType) -> str:
    """Return what to do if a name of a module means no server."""
    names = [name for name, each in vars(module).items() if isinstance(each, Server)]
    if names:
        return f"its servers are {', '.join(names)}"
    return "make a Server there, outside of functions and of `if __name__ == '__main__':`"


def _made_by(make: Any, target: str) -> object:
    try:
        signature_of(make).bind()
    except TypeError as exc:
        text = f"must be a Server, or a function without arguments that makes one ({exc})"
        raise ValueError(f"{target!r} {text}") from exc
    try:
        return make()
    except Exception as exc:  # whatever the program raises
        raise ProgramError(f"{target!r} made no server", exc) from exc
