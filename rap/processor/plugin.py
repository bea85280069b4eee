"""What processors and middleware have in common: events of the server, and private functions."""

from collections.abc import Callable
from typing import Any

__all__ = ["PlugIn", "Private"]

# A function, and its name and group.
Private = tuple[Callable[..., Any], str | None, str]


class PlugIn:
    """Something that a server loads; a subclass need not call a constructor of it."""

    def start_event_handle(self) -> Any:
        """Run before a server listens; may be `async`."""

    def stop_event_handle(self) -> Any:
        """Run when a server has stopped, if it was started; may be `async`."""

    def register(
        self, func: Callable[..., Any], name: str | None = None, group: str | None = None
    ) -> None:
        """Make a function callable for clients on the machine of the server that loads this.

        Call it in the constructor or in `start_event_handle`.

        Args:
            func: The function.
            name: Its name on the wire; by default its own.
            group: Its group; by default the name of this object's class.
        """
        functions: list[Private] = self.__dict__.setdefault("_private_functions", [])
        functions.append((func, name, group or type(self).__name__))

    def take_private_functions(self) -> list[Private]:
        """Return what was registered since this was last asked."""
        functions: list[Private] = self.__dict__.pop("_private_functions", [])
        return functions
