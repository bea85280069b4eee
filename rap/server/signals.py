"""What signals do to a server: drain, stop at once, read certificates again."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["handle_signals", "hang_up_handler"]


@contextmanager
def handle_signals(
    stop: Callable[[], None], stop_at_once: Callable[[], None], hang_up: Callable[[], None]
) -> Iterator[None]:
    """Handle the signals of the process in the running loop; outside of the main thread, none.

    Args:
        stop: For SIGTERM and SIGINT.
        stop_at_once: For a second one of them; a third does what it does to any program.
        hang_up: For SIGHUP, unless its terminal was closed: then `stop`.
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
        if threading.current_thread() is threading.main_thread():  # others get no signals
            loop = asyncio.get_running_loop()
            on_hang_up = hang_up_handler(hang_up, stop)
            handlers = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: on_hang_up}
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
                undo.callback(loop.remove_signal_handler, number)
        yield


def hang_up_handler(hang_up: Callable[[], None], stop: Callable[[], None]) -> Callable[[], None]:
    """Return what to do on SIGHUP, which also says that the terminal of a program was closed.

    Nobody is left then who could end it. One that was started without a terminal, or under
    ``nohup``, is not concerned.

    Args:
        hang_up: For the signal that somebody sent.
        stop: For the end of the terminal; may be called more than once.
    """
    is_bound = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    def act() -> None:
        if is_bound and not _has_terminal():
            stop()
        else:
            hang_up()

    return act


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
