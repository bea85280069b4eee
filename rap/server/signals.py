"""What signals do to a server: drain, stop at once, read certificates again."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["handle_signals"]


@contextmanager
def handle_signals(
    stop: Callable[[], None], stop_at_once: Callable[[], None], hang_up: Callable[[], None]
) -> Iterator[None]:
    """Handle the signals of the process in the running loop; outside of the main thread, none.

    Args:
        stop: For SIGTERM and SIGINT.
        stop_at_once: For a second one of them; a third does what it does to any program.
        hang_up: For SIGHUP.
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
            handlers = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGHUP: hang_up}
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
                undo.callback(loop.remove_signal_handler, number)
        yield
