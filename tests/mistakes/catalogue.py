"""How a mistake is declared, made, and rated."""

import asyncio
import gc
import inspect
import logging
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["MISTAKES", "Mistake", "Scene", "mistake"]

_MASKS = (
    (re.compile(r"\b(127\.0\.0\.1|localhost|\[::1\]|::1)([:'] ?)\d{2,5}\b"), r"\1\2<port>"),
    (re.compile(r"(?<=127\.0\.0\.1', )\d+"), "<port>"),
    (re.compile(r"\b(pid|process|PID) \d+"), r"\1 <pid>"),
    (re.compile(r"0x[0-9a-f]{6,}"), "0x<address>"),
    (re.compile(r"\b\d+\.\d{2,} ?s\b"), "<time> s"),
)


class Scene:
    """What a mistake may use.

    Attributes:
        folder: An empty folder.
        lines: What was logged so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def logged(self, part: str) -> bool:
        """Whether a line with this part was logged."""
        return any(part in line for line in self.lines)

    @property
    def log(self) -> str:
        """All that was logged."""
        return "\n".join(self.lines)


Made = Callable[[Scene], Any]


class Mistake:
    """A mistake, and what its text must have.

    Args:
        title: What the user has done.
        make: Makes the mistake: it raises the error that the user gets, or returns the text.
        rating: 0 if the text is of no use, 1 if it says what is wrong, 2 if it also says where, 3
            if it also says what to do.
        what: The part of the text that says what is wrong.
        where: The part that names the function, option, file, line or address.
        remedy: The part that says what to do.
    """

    def __init__(
        self, title: str, make: Made, rating: int, what: str, where: str, remedy: str
    ) -> None:
        self.title = title
        self.make = make
        self.rating = rating
        self.what = what
        self.where = where
        self.remedy = remedy

    @property
    def name(self) -> str:
        """The name of the function that makes it."""
        return self.make.__name__

    @property
    def area(self) -> str:
        """The name of the module that declares it."""
        return self.make.__module__.rpartition(".")[2]

    @property
    def markers(self) -> tuple[str, ...]:
        """The parts that back the rating."""
        return (self.what, self.where, self.remedy)[: self.rating]

    def text(self) -> str:
        """Make the mistake; return what the user sees, without ports and other random parts."""
        with tempfile.TemporaryDirectory(prefix="rap-") as name, _logging() as lines:
            scene = Scene(Path(name).resolve())
            scene.lines = lines
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                found = self._seen(scene)
                if "coroutine" in str(found):
                    gc.collect()  # those that were never awaited
            if isinstance(found, str):
                shown = [each for each in warned if each.category is RuntimeWarning]
                found += "".join(f"\nRuntimeWarning: {each.message}" for each in shown)
            else:
                raise AssertionError(f"{self.name}: no error and no text, but {found!r}")
            return _masked(found, scene.folder)

    def _seen(self, scene: Scene) -> Any:
        try:
            found = self.make(scene)
            if inspect.iscoroutine(found):
                found = asyncio.run(found)
        except Exception as exc:
            found = _error_text(exc)
        return found


MISTAKES: list[Mistake] = []


def mistake(
    title: str, rating: int, *, what: str, where: str = "", remedy: str = ""
) -> Callable[[Made], Made]:
    """Return a decorator that declares a function as the maker of a mistake; see `Mistake`."""

    def declare(make: Made) -> Made:
        MISTAKES.append(Mistake(title, make, rating, what, where, remedy))
        return make

    return declare


def _error_text(error: BaseException) -> str:
    """Return the end of a traceback, with the notes of the error."""
    lines = traceback.format_exception_only(error)
    return re.sub(r"^(\w+\.)+(?=\w+(:|$))", "", "".join(lines)).rstrip()


def _masked(text: str, folder: Path) -> str:
    text = text.replace(str(folder), "<folder>")
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


class _Lines(logging.Handler):
    """Keeps what is logged, as a terminal shows it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def _logging() -> Iterator[list[str]]:
    root, handler = logging.getLogger(), _Lines()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
