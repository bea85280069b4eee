"""The logging of ``rap serve``: to standard error, by a thread."""

import contextlib
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from rap.foreign import indented, one_line, shortened
from rap.server import Server
from rap.tracebacks import compact

__all__ = [
    "BackgroundHandler",
    "Formatter",
    "configure_access_log",
    "configure_logging",
    "handlers_of_rap",
    "leave_news_to_parent",
    "load_log_config",
]

_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Characters; the text of an exception may have a megabyte, and each may become six.
_LONGEST = 65_536  # of a record
_LONGEST_PART = 4_096  # of its message, and of each line and each exception in a traceback
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
_SAID = ("listening on ", "metrics at ", "stopped")  # what the command prints itself
_WAITING = 10_000  # lines, about 2 MB
_BATCH = 500  # lines that are written together
_LAST_LINES = 1.0  # seconds


def handlers_of_rap() -> frozenset[logging.Handler]:
    """Return what the records of a server are given to."""
    found: list[logging.Handler] = []
    logger: logging.Logger | None = logging.getLogger("rap.server")
    while logger is not None:
        found += logger.handlers
        logger = logger.parent if logger.propagate else None
    return frozenset(found)


def load_log_config(path: str) -> None:
    """Set up logging as a file says; loggers that it does not name stay enabled.

    Args:
        path: A file. If its name ends in ``.json``, it holds what `logging.config.dictConfig`
            takes, else what `logging.config.fileConfig` takes.

    Raises:
        ValueError: It cannot be used; says why.
    """
    from logging.config import dictConfig, fileConfig  # few programs need it

    try:
        if path.endswith(".json"):
            with open(path, "rb") as file:
                config = json.load(file)
            if not isinstance(config, dict):
                raise ValueError(f"it must hold a JSON object, got {type(config).__name__}")
            config.setdefault("disable_existing_loggers", False)
            dictConfig(config)
        else:
            fileConfig(path, disable_existing_loggers=False)
    except Exception as exc:  # what a class that the file names raises, too
        reasons = [exc, *([exc.__cause__] if exc.__cause__ is not None else [])]
        text = ": ".join(one_line(each) or type(each).__name__ for each in reasons)
        raise ValueError(f"{path}: {text}") from exc


def configure_logging(level: str, before: frozenset[logging.Handler]) -> bool:
    """Log to standard error, and return `False`; or return that the program has set up logging.

    Call it after the import of the user's program: logging that the program has set up stays as it
    is, and gets all that the command has to say. Otherwise the command prints where the server
    listens and that it has stopped, and this is not logged. A thread writes the lines, so that a
    reader that is slow does not stop the server.

    What peers have written, such as the text of an exception at the end of a traceback, cannot
    control the terminal or look like another record: all lines of a record but the first are
    indented.

    Args:
        level: Name of the lowest level that is logged.
        before: What `handlers_of_rap` returned before the import.
    """
    is_own = not handlers_of_rap() <= before
    handler: logging.Handler
    try:
        handler = BackgroundHandler(sys.stderr.fileno())
    except (AttributeError, OSError):  # the program has replaced it, or closed it
        handler = logging.StreamHandler()
    handler.addFilter(_is_news)
    handler.setFormatter(Formatter(_FORM))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    return is_own


def leave_news_to_parent() -> None:
    """Log nothing that the process which keeps this worker logs for all of them."""
    logging.getLogger("rap.server").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether the command does not print the same."""
    return record.name != "rap.server" or not str(record.msg).startswith(_SAID)


def configure_access_log(server: Server, access_log: bool | None) -> None:
    """Turn the access log of a server on or off, before it starts.

    Args:
        server: The server.
        access_log: What the command line says; `None` leaves it to the option of the server, which
            is on by default under this program.
    """
    if access_log is not None:
        server.enable_access_log(access_log)
    elif server.config.access_log is None:
        server.enable_access_log()


class Formatter(logging.Formatter):
    """Writes records that are safe to print, whatever length the texts in them have.

    A record has at most about 65,536 characters.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, safe to print and of limited length."""
        text = shortened(super().format(record), _LONGEST)
        return shortened(indented(text), _LONGEST)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the first part of the text: the message after its time, level and logger."""
        record.message = shortened(record.message, _LONGEST_PART)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Return a traceback of limited size, in which long texts of exceptions are shortened."""
        if ei[1] is None:  # none was raised
            return super().formatException(ei)
        short = compact(ei[1])
        trace = ei[2] if short is ei[1] else short.__traceback__
        parts = _parts(traceback.TracebackException(type(short), short, trace))
        return "\n".join(shortened(part.removesuffix("\n"), _LONGEST_PART) for part in parts)


def _parts(last: traceback.TracebackException) -> Iterator[str]:
    """Yield what the standard library prints of an exception and of those before it.

    Its own function goes through each text line by line, and a client may send a million of them.
    """
    chain: list[tuple[traceback.TracebackException, str]] = []
    error: traceback.TracebackException | None = last
    link = ""
    while error is not None:
        chain.append((error, link))
        if error.__cause__ is not None:
            error, link = error.__cause__, _CAUSE
        elif error.__suppress_context__:
            break
        else:
            error, link = error.__context__, _CONTEXT
    if any(each.exceptions for each, _ in chain):  # it draws a tree
        yield from last.format()
        return
    for each, link in reversed(chain):
        if each.stack:
            yield "Traceback (most recent call last):"
        yield from each.stack.format()
        yield from each.format_exception_only()
        if link:
            yield link


class BackgroundHandler(logging.Handler):
    """Writes lines by a thread, which it starts with the first.

    If what reads them is too slow, lines are left out, and a later line says how many. A forked
    child, such as one of a `ProcessPoolExecutor`, has no such thread: it writes each line at once.

    Args:
        file: File descriptor to write to.
        most: Lines that may wait.
    """

    def __init__(self, file: int, most: int = _WAITING) -> None:
        super().__init__()
        self._file = file
        self._most = most
        self._process = os.getpid()
        # Lines, events that are set when the lines before are written, and `None` at the end.
        self._lines: SimpleQueue[str | threading.Event | None] = SimpleQueue()
        self._left_out = 0
        self._is_stuck = False  # lines were not written in time
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Let the thread write a record; `logging` holds the lock of the handler meanwhile."""
        try:
            line = self.format(record)
        except Exception:  # of a formatter, or of an argument; as other handlers do
            self.handleError(record)
            return
        if os.getpid() != self._process:
            with contextlib.suppress(OSError):  # the file is closed
                self._write(f"{line}\n")
            return
        if self._lines.qsize() >= self._most:
            self._left_out += 1
            return
        self._tell_left_out()
        self._lines.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rap log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Wait a second at most until the lines are written; if they were not, no more later."""
        self._tell_left_out()
        if self._thread is not None and self._thread.is_alive() and not self._is_stuck:
            written = threading.Event()
            self._lines.put(written)
            self._is_stuck = not written.wait(_LAST_LINES)

    def close(self) -> None:
        """Write what waits, as `flush` does, and end. `logging` calls it at the exit."""
        self.flush()
        thread, self._thread = self._thread, None
        if thread is not None:
            self._lines.put(None)
            if not self._is_stuck:
                thread.join(_LAST_LINES)
        super().close()

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._lines.put(
                f"{self._left_out} lines of the log were left out, because it is read too slowly"
            )
            self._left_out = 0

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the file is closed
            while (entry := self._lines.get()) is not None:
                lines: list[str] = []
                while isinstance(entry, str):
                    lines.append(entry)
                    if len(lines) == _BATCH or self._lines.empty():
                        break
                    entry = self._lines.get()
                self._write("".join(f"{each}\n" for each in lines))
                if entry is None:
                    return
                if isinstance(entry, threading.Event):
                    entry.set()

    def _write(self, text: str) -> None:
        left = text.encode("utf-8", "backslashreplace")
        while left:
            left = left[os.write(self._file, left) :]
