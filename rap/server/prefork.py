"""A server as one of several worker processes of a program.

Without a registry all workers listen on the same ports, and the kernel spreads connections among
them. With a registry each worker is a separate instance with separate ports: behind a shared port
a client's balancer could neither see nor choose the workers.
"""

from collections.abc import Sequence

from rap.address import Address
from rap.server.server import Server

__all__ = ["become_worker"]


def become_worker(
    server: Server, number: int, shared: Sequence[Address] | None = None, *, count: int = 1
) -> bool:
    """Make a server worker `number`. Call it before the server starts.

    With a registry `number` is added to its ports and to the advertised port, except to port 0.

    Args:
        server: A server that was not started.
        number: Number of the worker, from 0. Registries and logs identify workers by their ports.
        shared: The addresses of the first worker, with real ports; `None` for the first.
        count: Number of workers, which share the memory of the machine.

    Returns:
        Whether the workers share their ports, so that the others need `shared`.

    Raises:
        ValueError: Several processes cannot use an address; the message names it.
    """
    manager, registration = server.connection_manager, server.registration
    manager.share_memory(count)
    for address in manager.hosts:
        if not address.has_port:
            what = "a unix socket" if address.scheme == "unix" else "it"
            raise ValueError(f"host {address}: {what} is for one process, not for workers")
    if not registration.is_configured:
        manager.listen_on(shared or manager.hosts, reuse_port=True)
        return True
    manager.listen_on([_moved(address, number) for address in manager.hosts])
    registration.move_advertised(number)
    return False


def _moved(address: Address, ports: int) -> Address:
    if not address.port:
        return address
    if address.port + ports > 65535:
        raise ValueError(f"host {address}: there is no port {address.port + ports} for a worker")
    return address.replace(port=address.port + ports)
