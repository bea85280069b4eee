"""A server that is one of several processes serving the same program.

Without a registry all listen on the same ports, and the kernel spreads connections among them.
With one each is an instance of its own and listens on ports of its own: behind a shared port the
balancer could neither see nor choose them.
"""

from collections.abc import Sequence
from dataclasses import replace

from rap.address import Address
from rap.server.server import Server

__all__ = ["become_worker"]


def become_worker(server: Server, number: int, shared: Sequence[Address] | None = None) -> bool:
    """Make a server worker `number`; before it starts.

    With a registry its ports, that of ``advertise`` too, become `number` higher; 0 stays 0.

    Args:
        server: Has been started by nobody.
        number: From 0; in registries and logs workers are told apart by their ports.
        shared: What the first worker listens on, with real ports; `None` for the first.

    Returns:
        Whether the ports are shared, and so `shared` is needed by the others.

    Raises:
        ValueError: An address cannot be had by several processes; says which.
    """
    manager, registration = server.connection_manager, server.registration
    for address in manager.hosts:
        if address.scheme == "unix":
            raise ValueError(f"host {address}: a unix socket is for one process, not for workers")
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
    return replace(address, port=address.port + ports)
