"""Values with named fields: addresses, endpoints, limits, the options of a client.

`dataclasses` compiles several methods of each class when its module is imported, which takes 0.4 ms
a class. The methods of a `Struct` are in C. Nothing checks the types of the values. `Record` is for
values that do not change, as almost all; a plain `Struct` for the others.
"""

from typing import Any, Self

from msgspec import Struct, field, structs

__all__ = ["Record", "Struct", "field"]


class Record(Struct, frozen=True):
    """The base class of immutable values: fields are declared as in a dataclass.

    Give ``frozen=True`` to each class that is derived, and ``kw_only=True`` for fields that are set
    by name only. ``field(default_factory=…)`` is for defaults that must be made for each value.
    """

    def replace(self, **changes: Any) -> Self:
        """Return a value with some fields changed; it is checked as a new one."""
        return structs.replace(self, **changes)
