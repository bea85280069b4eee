"""Ports on which a test starts a server later, or none at all: no other program gets them.

A port that the kernel has assigned and that was closed again may soon be assigned to another
program. So these ports are below those that the kernel assigns. Each process claims blocks of them
for itself, because the tests run in several processes, and several runs on one machine.
"""

import atexit
import errno
import itertools
import random
import socket
from collections.abc import Iterator

__all__ = ["BUS_OFFSET", "free_address", "free_port"]

# Linux assigns ports from 32,768 on. The upper half is for the second port of each server.
PORTS = range(10_000, 20_000)
BUS_OFFSET = 10_000  # the bus of a node of Redis Cluster has the port of the node plus this
BLOCK = 20


def free_port() -> int:
    """Return a port on which nothing listens, nor on the port `BUS_OFFSET` above it.

    No other process of a test gets it, and this one gets it only once.
    """
    return next(_free_ports)


def free_address() -> str:
    """Return the address of a free port on 127.0.0.1."""
    return f"127.0.0.1:{free_port()}"


def claimed_blocks(chance: random.Random) -> Iterator[range]:
    """Yield blocks of ports that this process has for itself.

    A block belongs to the process that has bound the UDP port with the number of its first port.
    """
    while True:
        first = chance.choice(PORTS[::BLOCK])
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
        else:
            atexit.register(claim.close)
            yield range(first, first + BLOCK)


def is_free(port: int) -> bool:
    """Whether a server can listen on a port of loopback and on the port `BUS_OFFSET` above it."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        for each in (port, port + BUS_OFFSET):
            try:
                socket.create_server((host, each), family=family).close()
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:  # else the machine has no IPv6
                    return False
    return True


# Tests may seed the shared generator alike in all processes.
_free_ports = filter(is_free, itertools.chain.from_iterable(claimed_blocks(random.SystemRandom())))
