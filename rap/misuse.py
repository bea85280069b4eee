"""Errors of wrong use: methods that only say what to use instead, and options of a wrong type.

Python looks for `__enter__`, `__iter__` and the like in the class of an object. If there is none,
its error names neither the function nor the right way. The classes of rap define such methods where
beginners use one kind of statement for the other. Type checkers do not see them, so they still
reject the code: put them under ``if not TYPE_CHECKING``.

Python looks for the methods in the class to answer ``isinstance``, too. So an object with such an
`__await__` counts as awaitable, for `inspect.isawaitable` and `asyncio.gather`, and one with such
an `__iter__` as iterable: code that gets both kinds asks first whether it is a coroutine, or an
`AsyncIterable`. There is no other way to say what is wrong with a plain ``await``.

The module is small because clients, servers and streams define such methods, and all layers check
options; they have no other module in common.
"""

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["HOW_TO_PICKLE", "OptionTypeError", "refusing"]

HOW_TO_PICKLE = "cannot be pickled or copied, because it has connections; make one in each process"


def refusing(text: str) -> Callable[..., NoReturn]:
    """Return a method that raises `TypeError`.

    Args:
        text: What to do instead. ``{0}`` stands for the object, so ``{0.name}`` for an attribute.
    """

    def refuse(self: Any, *args: Any) -> NoReturn:
        raise TypeError(text.format(self))

    return refuse


class OptionTypeError(TypeError, ValueError):
    """An option has a value of a wrong type, such as a text instead of a number of seconds.

    It is a `ValueError`, too: options are often read from the environment, where a bad text is a
    bad value.
    """
