"""Names that are imported on first use, because they need an extra or few programs use them."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Lazy", "loader"]


class Lazy(NamedTuple):
    """The source of a name that is imported on first use.

    Args:
        module: The module that defines it.
        name: Its name there.
        extra: The extra of rap that the module needs; empty if it needs none.
    """

    module: str
    name: str
    extra: str = ""

    def load(self) -> Any:
        """Import the module and return the object."""
        return getattr(importlib.import_module(self.module), self.name)


def loader(module: str, table: Mapping[str, Lazy]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that also offers the names in `table`.

    That function raises `ImportError`, with the name of the extra, if it is not installed.
    """

    def load(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        source = table[name]
        try:
            return source.load()
        except ModuleNotFoundError as exc:
            if not source.extra or (exc.name or "rap").partition(".")[0] == "rap":
                raise
            text = f"{name} needs the extra {source.extra}: install rap[{source.extra}]"
            raise ImportError(text, name=module) from exc

    return load
