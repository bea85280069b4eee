"""A transport without a socket, so that an input costs no system call."""

import asyncio
from typing import Any

__all__ = ["MemoryTransport"]


class MemoryTransport(asyncio.Transport):
    """Counts what is written; what was to be read is given to the protocol by hand.

    Args:
        protocol: Told once that the connection is lost.
    """

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.written = 0
        self._protocol = protocol
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return nothing: the peer counts as one on a unix socket."""
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Take any limits; nothing ever waits to be written."""

    def get_write_buffer_size(self) -> int:
        """Return that nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """Go on: who feeds looks at nothing but `is_closing`."""

    def resume_reading(self) -> None:
        """Go on."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Count."""
        self.written += len(data)

    def writelines(self, list_of_data: Any) -> None:
        """Count."""
        self.written += sum(map(len, list_of_data))

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def close(self) -> None:
        """End the connection in the next turn of the loop."""
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """Do the same: nothing waits."""
        self.close()
