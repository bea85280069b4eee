"""How options are checked that are no numbers; each error names the option."""

import inspect
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

__all__ = ["as_list", "check_flag", "make_config"]

C = TypeVar("C")
T = TypeVar("T")


def make_config(owner: type, config: type[C], options: dict[str, Any], **settled: Any) -> C:
    """Return the configuration of an object of `owner`, with the options that a user gave.

    Args:
        owner: Class of the object; its constructor may take more options by itself.
        config: A dataclass.
        options: From users.
        settled: Fields that are no options.

    Raises:
        TypeError: An option does not exist; the message has the one that was meant, if it can tell.
    """
    own = {field.name for field in fields(config)} - settled.keys()  # type: ignore[arg-type]  # a dataclass
    for name in options.keys() - own:
        known = sorted((own | set(inspect.signature(owner).parameters)) - {"options"})
        from difflib import get_close_matches

        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
        raise TypeError(f"{owner.__name__} has no option {name!r}{hint}")
    return config(**settled, **options)


def check_flag(option: str, value: object) -> None:
    """Refuse what is neither `True` nor `False`: a text such as ``"no"`` counts as true.

    Raises:
        ValueError: It is no bool.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be True or False, got {value!r}")


def as_list(option: str, values: Iterable[T]) -> list[T]:
    """Return the entries of an option that takes several.

    Raises:
        TypeError: It is no list, nor anything else that can be iterated.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{option} must be a list, got {values!r}")
    return list(values)
