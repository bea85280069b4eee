"""One connection to each instance of a service, without load balancing."""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from rap.cli.command import Failed
from rap.cli.registry import RegistryReader
from rap.cli.remote import DEFAULT_HOST, Remote, refuses
from rap.client import Client
from rap.client.method import Method
from rap.client.node import Node
from rap.errors import CallError, Code, DeadlineExceeded, Unavailable
from rap.registry import Endpoint
from rap.transport import Connection, UnaryStream
from rap.wire.load_report import ServerLoad

__all__ = ["Instance", "load_of", "open_instance", "open_instances", "round_trip"]

_POLL = 0.005  # seconds between two checks for a connection
# No function can have this name: a server answers that there is none, and runs nothing.
_NO_FUNCTION = Method("", "registry", None, timeout=None).meta


@dataclass(frozen=True, slots=True)
class Instance:
    """One server, with a client for it alone.

    Args:
        address: Its address.
        client: Calls no other server.
        endpoint: Its entry in the registry; `None` without a registry.
    """

    address: str
    client: Client
    endpoint: Endpoint | None


async def open_instances(remote: Remote, stack: AsyncExitStack) -> list[Instance]:
    """Return the instances that the options name; their clients are connecting.

    Raises:
        Failed: The registry does not answer, or lists none.
    """
    if remote.with_service().registry is None:
        hosts = remote.host or (DEFAULT_HOST,)
        return [await open_instance(remote, each, None, stack) for each in dict.fromkeys(hosts)]
    async with RegistryReader(remote) as registry:
        found = await registry.instances()
        if not found:
            raise Failed(await registry.none_found())
    return [await open_instance(remote, str(each.address), each, stack) for each in found]


async def open_instance(
    remote: Remote, address: str, endpoint: Endpoint | None, stack: AsyncExitStack
) -> Instance:
    """Return one instance, whose client is connecting; `stack` closes it."""
    client = remote.at(address).client() if endpoint is None else remote.client_of(endpoint.address)
    connecting = asyncio.create_task(_connect(client), name=f"rap connect {address}")
    stack.push_async_callback(_close, client, connecting)
    await asyncio.sleep(0)  # the client has a cluster now
    return Instance(address, client, endpoint)


async def load_of(instance: Instance, patience: float) -> tuple[float, ServerLoad | None]:
    """Return the seconds of one round trip, and the load that the server reports.

    An older server sends no report.

    Args:
        instance: The server.
        patience: Seconds to wait.

    Raises:
        CallError: As `round_trip`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    node, conn = await _connected(instance, end, patience)
    seconds = await _answer(instance, conn, end, patience)
    reported = loop.create_future()

    def take(conn: Connection, body: bytes) -> None:
        node.take_report(conn, body)
        if not reported.done():
            reported.set_result(node.report)

    conn.set_load_handler(take)
    node.request_load_report()  # after the call above, which would be in the count
    with suppress(TimeoutError):
        async with asyncio.timeout_at(end):
            return seconds, await reported
    return seconds, None


async def round_trip(instance: Instance, patience: float) -> float:
    """Return the seconds of one round trip.

    Args:
        instance: The server.
        patience: Seconds to wait.

    Raises:
        Unavailable: The server is not connected.
        DeadlineExceeded: No answer came within `patience`.
    """
    end = asyncio.get_running_loop().time() + patience
    _, conn = await _connected(instance, end, patience)
    return await _answer(instance, conn, end, patience)


async def _connected(instance: Instance, end: float, patience: float) -> tuple[Node, Connection]:
    """Return node and connection; fail at once if the instance has refused a connection."""
    client, loop = instance.client, asyncio.get_running_loop()
    cluster = client.cluster
    while not cluster.ready:
        pool = next((node.pool for node in cluster.nodes.values()), None)
        if pool is not None and pool.denial is not None:
            raise pool.denial
        if pool is not None and refuses(cluster) and not client.config.wait_for_ready:
            raise Unavailable(pool.error)
        if loop.time() >= end:
            raise Unavailable(f"there was no connection within {patience:g} s")
        await asyncio.sleep(_POLL)
    return await cluster.acquire(client.monotonic() + end - loop.time())


async def _answer(instance: Instance, conn: Connection, end: float, patience: float) -> float:
    monotonic = instance.client.monotonic
    began = monotonic()
    stream = UnaryStream(conn, began + patience)
    conn.open_unary(stream, _NO_FUNCTION, b"")
    try:
        async with asyncio.timeout_at(end):
            await stream.future
    except TimeoutError:
        conn.reset(stream, Code.CANCELLED, "no answer came in time")
        raise DeadlineExceeded(f"no answer came within {patience:g} s") from None
    except CallError as error:
        if not error.remote:
            raise
    return monotonic() - began


async def _connect(client: Client) -> None:
    try:
        await client.connect()
    except CallError:
        return  # the next request fails with the reason


async def _close(client: Client, connecting: asyncio.Task[None]) -> None:
    connecting.cancel()
    await asyncio.wait([connecting])
    await client.await_close()
