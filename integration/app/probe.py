"""Whether the service on this machine accepts calls: ``python integration/app/probe.py [port]``.

It opens a connection and waits for the first byte of the server's Hello, so a process that accepts
and does nothing more is found out. Against TLS a server says nothing first, and accepting is taken
as enough. It imports nothing of rap: a container runs it every few seconds.
"""

import os
import socket
import sys

__all__ = ["answers", "main"]

_TIMEOUT = 2.0  # seconds


def answers(port: int) -> bool:
    """Return whether a server answers on this port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT) as connection:
            return bool(os.environ.get("APP_CERTIFICATE") or connection.recv(1))
    except OSError as error:
        print(f"127.0.0.1:{port} does not answer: {error}", file=sys.stderr)
        return False


def main() -> int:
    """Return the exit status: 0 if it answers."""
    return 0 if answers(int(sys.argv[1]) if len(sys.argv) > 1 else 9000) else 1


if __name__ == "__main__":
    sys.exit(main())
