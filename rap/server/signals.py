"""Signals that drain a server, stop it at once, or reload its certificates."""

import asyncio
import dis
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["handle_signals", "hang_up_handler", "is_ctrl_c"]

_handled: set[int] = set()  # signals that a loop of this process handles
_RAISE = dis.opmap["RAISE_VARARGS"]  # the instruction of a `raise` statement


@contextmanager
def handle_signals(
    stop: Callable[[], None], stop_at_once: Callable[[], None], hang_up: Callable[[], None]
) -> Iterator[None]:
    """Handle the signals of the process in the running loop, if this is the main thread.

    Args:
        stop: Called for SIGTERM and SIGINT.
        stop_at_once: Called for the second of them. A third has the default effect.
        hang_up: Called for SIGHUP, unless the terminal was closed; then `stop` is called.
    """
    signalled = False

    def on_stop() -> None:
        nonlocal signalled
        if signalled:
            stop_at_once()
            undo.close()
        signalled = True
        stop()

    with ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():  # other threads get no signals
            loop = asyncio.get_running_loop()
            on_hang_up = hang_up_handler(hang_up, stop)
            handlers = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: on_hang_up}
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
                undo.callback(loop.remove_signal_handler, number)
            _handled.update(handlers)
            undo.callback(_handled.clear)
        yield


def hang_up_handler(hang_up: Callable[[], None], stop: Callable[[], None]) -> Callable[[], None]:
    """Return the handler of SIGHUP, which is also sent when the terminal of a program is closed.

    A program whose terminal is closed stops, because it can no longer be stopped from there. A
    program started without a terminal, or with ``nohup``, does not.

    Args:
        hang_up: Called for a SIGHUP that was sent on purpose.
        stop: Called when the terminal was closed; it may be called more than once.
    """
    stops_with_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def on_hang_up() -> None:
        if stops_with_terminal and not _has_terminal():
            stop()
        else:
            hang_up()

    return on_hang_up


def is_ctrl_c(exc: BaseException) -> bool:
    """Return whether an exception is a `KeyboardInterrupt` by SIGINT, not by the code of a handler.

    While `handle_signals` is in effect, SIGINT raises nothing. Without it, Python's own signal
    handler raises between two instructions, and that of `asyncio.run` raises in its own frame.
    """
    if not isinstance(exc, KeyboardInterrupt) or exc.__traceback__ is None:
        return False
    innermost = exc.__traceback__
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    code = innermost.tb_frame.f_code
    on_signal = signal.getsignal(signal.SIGINT)
    if on_signal is signal.default_int_handler:
        return code.co_code[innermost.tb_lasti] != _RAISE
    on_signal = getattr(on_signal, "func", on_signal)  # a partial, in `asyncio.Runner`
    return getattr(on_signal, "__code__", None) is code


def _after_fork() -> None:
    """Let signals have their default effect in a forked child.

    It would send them to the loop of its parent: both have the pipe by which a loop hears of them.
    """
    if _handled:
        signal.set_wakeup_fd(-1)
        for number in _handled:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
        _handled.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
