"""Names that are imported on first use: they need an extra, or few programs need them at all."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Lazy", "loader"]


class Lazy(NamedTuple):
    """Where a name comes from.

    Args:
        module: Has it.
        name: What it is called there.
        extra: The extra of rap that brings what the module imports; empty if none does.
    """

    module: str
    name: str
    extra: str = ""


def loader(module: str, table: Mapping[str, Lazy]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that has the names of `table` beside its own.

    What it returns raises `ImportError`, naming the extra, if that is not installed.
    """

    def load(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        source = table[name]
        try:
            return getattr(importlib.import_module(source.module), source.name)
        except ModuleNotFoundError as exc:
            if not source.extra or (exc.name or "rap").partition(".")[0] == "rap":
                raise
            text = f"{name} needs the extra {source.extra}: install rap[{source.extra}]"
            raise ImportError(text, name=module) from exc

    return load
