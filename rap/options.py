"""How options are declared, checked and described.

The options of a client, a server or a connection are the fields of one frozen dataclass. Each field
is declared once, with its type, its default and an `Option`::

    timeout: Annotated[float | None, Option("Deadline of a call.", "seconds", above=0)] = 9

The declaration is the source of the check (`check_options`), of the constructor's signature for
type checkers and editors (`takes_options_of`), of the docstrings, and of the tables in docs/.
"""

import functools
import types
from collections.abc import Callable, Iterable
from dataclasses import fields
from math import inf
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, get_args

__all__ = [
    "DeclaredOption",
    "Option",
    "as_list",
    "check_flag",
    "check_options",
    "declared_options",
    "make_config",
    "takes_options_of",
]

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")


class Option:
    """What users are told of an option, and which values it takes.

    Bounds are for options that are numbers, and say nothing about `None`.

    Args:
        text: One or more full sentences.
        unit: Unit of the value, in the plural: ``"seconds"``.
        least: The value must be at least this number, or at least the value of the option of this
            name. The code that uses both options checks the latter.
        most: The value must be at most this number.
        above: The value must be greater than this number.
        finite: The value must be less than infinity.
        check: Called as ``check(value, option=name)`` instead of the check made from the bounds.
            It raises `ValueError` for a bad value.
        see: Page of the documentation that says more, with an anchor.
    """

    __slots__ = ("above", "check", "finite", "least", "most", "see", "text", "unit")

    def __init__(
        self,
        text: str,
        unit: str = "",
        least: float | str | None = None,
        most: float | None = None,
        *,
        above: float | None = None,
        finite: bool = False,
        check: Callable[..., object] | None = None,
        see: str = "",
    ) -> None:
        self.text = text
        self.unit = unit
        self.above = above
        self.least = least
        self.most = most
        self.finite = finite
        self.check = check
        self.see = see

    @property
    def bounds(self) -> str:
        """The bounds in words; empty if there are none."""
        if self.above is not None:
            return f"more than {_number(self.above)}"
        if self.least is not None and self.most is not None:
            return f"{_number(self.least)} to {_number(self.most)}"
        return "" if self.least is None else f"at least {_number(self.least)}"


class DeclaredOption(NamedTuple):
    """One field of a dataclass that has an `Option`.

    Args:
        name: Name of the field.
        default: Value of the field if users give none.
        kind: Type of the value that is checked: `bool`, `int`, `float` or `str`; `None` for another
            type, which is checked where it is used.
        optional: The value may be `None`.
        option: The declaration.
    """

    name: str
    default: Any
    kind: type | None
    optional: bool
    option: Option

    def check(self, value: object) -> None:
        """Check a value.

        Raises:
            ValueError: The value is not allowed; the message has the name and the value.
        """
        if self.optional and value is None:
            return
        if self.option.check is not None:
            self.option.check(value, option=self.name)
        elif self.kind is bool:
            check_flag(self.name, value)
        elif self.kind is str and not isinstance(value, str):
            raise ValueError(f"{self.name} must be a string, got {value!r}")
        elif self.kind is int:
            self._check_integer(value)
        elif self.kind is float:
            self._check_number(value)

    def _check_integer(self, value: object) -> None:
        low, high = self._range
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            bounds = f" of at least {low}" if high == inf else f" from {low} to {high}"
            expected = "an integer" + ("" if low == -inf else bounds)
            orelse = ", or None" if self.optional else ""
            raise ValueError(f"{self.name} must be {expected}{orelse}, got {value!r}")

    def _check_number(self, value: object) -> None:
        unit = f" {self.option.unit}" if self.option.unit == "seconds" else ""
        low, high = self._range
        if isinstance(value, bool) or not isinstance(value, int | float):
            expected = "a number" + (f" of{unit}" if unit else "")
            expected += " or None" if self.optional else ""
        elif self.option.above is not None and not value > self.option.above:
            expected = f"more than {self.option.above:g}{unit}"
        elif not low <= value <= high or (self.option.finite and value == inf):
            expected = f"{low:g} to {high:g}{unit}" if high < inf else f"{low:g}{unit} or more"
        else:
            return
        raise ValueError(f"{self.name} must be {expected}, got {value!r}")

    @property
    def _range(self) -> tuple[float, float]:
        least, most = self.option.least, self.option.most
        low = -inf if least is None or isinstance(least, str) else least
        return low, inf if most is None else most


@functools.cache
def declared_options(config: type) -> tuple[DeclaredOption, ...]:
    """Return the options that a dataclass declares, in their order."""
    declared = []
    for each in fields(config):
        metadata = getattr(each.type, "__metadata__", ())
        if metadata:
            kind = each.type.__origin__  # type: ignore[union-attr]  # it is an Annotated
            kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
            optional = types.NoneType in kinds
            plain = [one for one in kinds if one is not types.NoneType]
            checked = plain[0] if len(plain) == 1 and plain[0] in (bool, int, float, str) else None
            if checked is str and optional:
                checked = None
            declared.append(DeclaredOption(each.name, each.default, checked, optional, metadata[0]))
    return tuple(declared)


def check_options(config: object) -> None:
    """Check the value of every option of a configuration against its declaration.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """
    kind: Any = type(config)
    for declared in declared_options(kind):
        value = getattr(config, declared.name)
        if value is not declared.default:
            declared.check(value)


def takes_options_of(
    config: Callable[P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Return a decorator that gives an `__init__` the parameters of a dataclass.

    Type checkers, editors and `inspect.signature` then know every option with its type and its
    default. The function itself stays as it is: it takes ``**options`` and passes them to
    `make_config`.
    """

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        init.__wrapped__ = config.__init__  # type: ignore[attr-defined]  # for `inspect`
        return init

    return decorate


def make_config(owner: type, config: type[C], options: dict[str, Any]) -> C:
    """Return the configuration of an object of `owner`, with the options that a user gave.

    Args:
        owner: Class of the object, for the error.
        config: A dataclass.
        options: From users.

    Raises:
        TypeError: An option does not exist; the message suggests the one that was meant.
        ValueError: An option has a bad value; the message names it.
    """
    kind: Any = config
    names = _names(kind)
    for name in options.keys() - names:
        from difflib import get_close_matches

        close = get_close_matches(name, sorted(names), n=1)
        known = ", ".join(sorted(names))
        hint = f"did you mean {close[0]!r}?" if close else f"the options are {known}"
        raise TypeError(f"{owner.__name__} has no option {name!r}; {hint}")
    return config(**options)


def check_flag(option: str, value: object) -> None:
    """Check that the value of an option is a bool: a text such as ``"no"`` would count as true.

    Raises:
        ValueError: It is neither `True` nor `False`.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be True or False, got {value!r}")


def as_list(option: str, values: Iterable[T]) -> list[T]:
    """Return the entries of an option that takes several.

    Raises:
        TypeError: `values` is a string, or cannot be iterated.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{option} must be a list, got {values!r}")
    return list(values)


@functools.cache
def _names(config: type) -> frozenset[str]:
    return frozenset(each.name for each in fields(config) if each.init)


def _number(value: float | str) -> str:
    return f"`{value}`" if isinstance(value, str) else f"{value:,}"
