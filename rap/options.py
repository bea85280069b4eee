"""How options are declared, checked and described.

The options of a client, a server or a connection are the fields of one class that is derived from
`Options`. Each field is declared once, with its type, its default and an `Option`::

    timeout: Annotated[float | None, Option("Deadline of a call.", "seconds", above=0)] = 9

The declaration is the source of the check (`check_options`), of the constructor's signature for
type checkers and editors (`takes_options_of`), of the docstrings, and of the tables in docs/.

The options of functions such as `Server.register` are declared in the same way, in a class without
instances. The functions have these options as their parameters (`checks_options`); a test
compares names and defaults.
"""

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_args

from rap.misuse import OptionTypeError
from rap.record import Record

__all__ = [
    "DeclaredOption",
    "Option",
    "Options",
    "as_list",
    "change_config",
    "check_flag",
    "check_options",
    "checks_options",
    "declared_options",
    "make_config",
    "takes_options_of",
]

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
Changed = TypeVar("Changed", bound="Options")
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


class DeclaredOption:
    """One attribute of an `Options` class that has an `Option`.

    Args:
        name: Name of the attribute.
        default: Its value if users give none.
        kind: Its type, without its `Option`.
        option: The declaration.

    Attributes:
        annotation: Its type as declared, likewise.
        kind: Type of the value that is checked: `bool`, `int`, `float` or `str`; `None` for another
            type, which is checked where it is used.
        optional: Whether the value may be `None`.
    """

    __slots__ = ("annotation", "default", "kind", "name", "option", "optional")

    def __init__(self, name: str, default: Any, kind: Any, option: Option) -> None:
        kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        checked = [each for each in kinds if each is not types.NoneType]
        self.name = name
        self.annotation = kind
        self.default = default
        self.option = option
        self.optional = len(checked) < len(kinds)
        self.kind: type | None = None
        if len(checked) == 1 and checked[0] in (bool, int, float, str):
            self.kind = checked[0]
        if self.kind is str and self.optional:
            self.kind = None

    def check(self, value: object) -> None:
        """Check a value.

        Raises:
            ValueError: The value is not allowed; the message has the name and the value. For a
                wrong type, it is an `OptionTypeError`.
        """
        if self.optional and value is None:
            return
        if self.option.check is not None:
            self.option.check(value, option=self.name)
        elif self.kind is bool:
            check_flag(self.name, value)
        elif self.kind is str and not isinstance(value, str):
            raise OptionTypeError(f"{self.name} must be a string, got {value!r}")
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
            kind = ValueError if type(value) is int else OptionTypeError
            raise kind(f"{self.name} must be {expected}{orelse}, got {value!r}")

    def _check_number(self, value: object) -> None:
        unit = f" {self.option.unit}" if self.option.unit == "seconds" else ""
        low, high = self._range
        if isinstance(value, bool) or not isinstance(value, int | float):
            expected = "a number" + (f" of{unit}" if unit else "")
            expected += " or None" if self.optional else ""
            raise OptionTypeError(f"{self.name} must be {expected}, got {value!r}")
        if self.option.above is not None and not value > self.option.above:
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


class Options(Record, frozen=True):
    """The base class of configurations, whose values are checked against their declarations.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """

    def __post_init__(self) -> None:
        check_options(self)

    def __repr__(self) -> str:
        """Show the numbers, flags and names that are not the default; others may have secrets."""
        kind: Any = type(self)
        changed = [
            (name, getattr(self, name))
            for name, default in _defaults(kind)
            if getattr(self, name) != default and _declared(kind, name).kind is not None
        ]
        return f"{kind.__name__}({', '.join(f'{name}={value!r}' for name, value in changed)})"


def declared_options(config: type[Options]) -> list[DeclaredOption]:
    """Return the options that a class declares, in their order."""
    return [_declared(config, name) for name, _ in _defaults(config)]


def check_options(config: Options) -> None:
    """Check the value of every option of a configuration against its declaration.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """
    kind: Any = type(config)
    for name, default in _defaults(kind):
        value = getattr(config, name)
        if value is not default:
            _declared(kind, name).check(value)


def takes_options_of(
    config: Callable[P, object],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Return a decorator that gives an `__init__` the parameters of a configuration.

    Type checkers, editors and `inspect.signature` then know every option with its type and its
    default. The function itself stays as it is: it takes ``**options`` and passes them to
    `make_config`.
    """

    def decorate(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        _tell_inspect(init, _Signature(init, config))
        return init

    return decorate


class _Signature:
    """Tells `inspect` the parameters of a function that takes ``**options``, when it asks for them.

    The types of options come without their descriptions, or `help()` would be hard to read.

    Args:
        func: The function.
        config: The class that declares the options.
    """

    def __init__(self, func: Callable[..., object], config: Callable[..., object]) -> None:
        self._func = func
        self._config = config

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self._func, follow_wrapped=False)
        named = {name: it for name, it in own.parameters.items() if it.kind is not it.VAR_KEYWORD}
        options = [
            it.replace(annotation=_declared(self._config, name).annotation)
            for name, it in inspect.signature(self._config).parameters.items()
            if name not in named
        ]
        return own.replace(parameters=[*named.values(), *options])


class _WrappedSignature(_Signature):
    """The same for a function in a wrapper, whose source `inspect` finds too."""

    @property
    def __wrapped__(self) -> Callable[..., object]:
        return self._func


def _tell_inspect(func: Callable[..., object], signature: _Signature) -> None:
    func.__wrapped__ = signature  # type: ignore[attr-defined]  # where `inspect` looks


def checks_options(
    declaration: type[Options], elsewhere: Mapping[str, str] | None = None
) -> Callable[[F], F]:
    """Return a decorator that checks the options of a function before it runs.

    It raises `TypeError` for an option that does not exist, with the one that was meant, and the
    error of `DeclaredOption.check` for a value that is not allowed. Parameters of the function that
    are not declared are left to it.

    Args:
        declaration: A class that declares the options. It may declare more than the function has,
            unless that takes ``**options``: it then has all of them, and `inspect` is told so.
        elsewhere: What to do instead, by the name of an option that something else has.
    """
    defaults = dict(_defaults(declaration))

    def decorate(func: F) -> F:
        code = func.__code__
        places = code.co_varnames[: code.co_argcount]
        names = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}
        takes_all = bool(code.co_flags & inspect.CO_VARKEYWORDS)
        if takes_all:
            names.update(defaults)

        @functools.wraps(func)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs.keys() - names:
                if elsewhere and name in elsewhere:
                    raise TypeError(
                        f"{func.__qualname__} has no option {name!r}; {elsewhere[name]}"
                    )
                raise _unknown(func.__qualname__, name, defaults.keys() & names, names - {"self"})
            for name, value in (*zip(places, args, strict=False), *kwargs.items()):
                if name in defaults and value is not defaults[name]:
                    _declared(declaration, name).check(value)
            return func(*args, **kwargs)

        if takes_all:
            _tell_inspect(checked, _WrappedSignature(func, declaration))
        return cast(F, checked)

    return decorate


def make_config(owner: type, config: type[C], options: dict[str, Any]) -> C:
    """Return the configuration of an object of `owner`, with the options that a user gave.

    Args:
        owner: Class of the object, for the error.
        config: Class of the configuration.
        options: From users.

    Raises:
        TypeError: An option does not exist; the message suggests the one that was meant.
        ValueError: An option has a bad value; the message names it.
    """
    _check_known(owner, config, options)
    return config(**options)


def change_config(owner: type, config: Changed, options: dict[str, Any]) -> Changed:
    """Return a configuration in which some options are changed; see `make_config`."""
    _check_known(owner, type(config), options)
    return config.replace(**options)


def _check_known(owner: type, config: Any, options: dict[str, Any]) -> None:
    names = {name for name, _ in _defaults(config)}
    for name in options.keys() - names:
        raise _unknown(owner.__name__, name, names)


def check_flag(option: str, value: object) -> None:
    """Check that the value of an option is a bool: a text such as ``"no"`` would count as true.

    Raises:
        OptionTypeError: It is neither `True` nor `False`.
    """
    if not isinstance(value, bool):
        raise OptionTypeError(f"{option} must be True or False, got {value!r}")


def as_list(option: str, values: Iterable[T]) -> list[T]:
    """Return the entries of an option that takes several.

    Raises:
        TypeError: `values` is a string, or cannot be iterated.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{option} must be a list, got {values!r}")
    return list(values)


def _unknown(owner: str, name: str, names: Iterable[str], others: Iterable[str] = ()) -> TypeError:
    """Return the error for an option that does not exist; it suggests the one that was meant.

    Args:
        owner: What the option was given to.
        name: The option.
        names: The options that there are.
        others: Parameters of the owner that may be meant, too.
    """
    from difflib import get_close_matches

    known = sorted(names)
    close = get_close_matches(name, sorted({*known, *others}), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(known)}"
    return TypeError(f"{owner} has no option {name!r}; {hint}")


@functools.cache
def _defaults(config: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(zip(config.__struct_fields__, config.__struct_defaults__, strict=True))


@functools.cache
def _declared(config: Any, name: str) -> DeclaredOption:
    """Return one option. A module of options has its annotations as strings: import is faster."""
    owner = next(each for each in config.__mro__ if name in vars(each)["__annotations__"])
    annotation = owner.__annotations__[name]
    if isinstance(annotation, str):
        annotation = eval(annotation, vars(sys.modules[owner.__module__]))
    (option,) = annotation.__metadata__
    return DeclaredOption(name, dict(_defaults(config))[name], annotation.__origin__, option)


def _number(value: float | str) -> str:
    return f"`{value}`" if isinstance(value, str) else f"{value:,}"
