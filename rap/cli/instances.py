"""Each instance of a service on a connection of its own, whatever a balancer would choose."""

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from rap.cli.command import Failed
from rap.cli.registry import Directory
from rap.cli.remote import DEFAULT_HOST, Remote, refuses
from rap.client import Client
from rap.client.method import Method
from rap.client.node import Node
from rap.errors import CallError, Code, DeadlineExceeded, Unavailable
from rap.registry import Endpoint
from rap.transport import Connection, UnaryStream
from rap.wire.load_report import ServerLoad

__all__ = ["Instance", "instances_of", "look", "open_instance", "round_trip"]

_LOOK = 0.005  # seconds between two looks for a connection
# No function can have this name, so a server answers that it has none, and runs nothing.
_NOBODY = Method("", "registry", None, timeout=None).meta


@dataclass(frozen=True, slots=True)
class Instance:
    """One server.

    Args:
        address: Where it is.
        client: Of this one server.
        endpoint: What the registry says; `None` without one.
    """

    address: str
    client: Client
    endpoint: Endpoint | None


async def instances_of(remote: Remote, stack: AsyncExitStack) -> list[Instance]:
    """Return the instances that the options name, their clients on the way to be connected.

    Raises:
        Failed: The registry does not answer, or lists none.
    """
    if remote.with_service().registry is None:
        hosts = remote.host or (DEFAULT_HOST,)
        return [await open_instance(remote, each, None, stack) for each in dict.fromkeys(hosts)]
    async with Directory(remote) as directory:
        found = await directory.instances()
        if not found:
            raise Failed(await directory.none_found())
    return [await open_instance(remote, str(each.address), each, stack) for each in found]


async def open_instance(
    remote: Remote, address: str, endpoint: Endpoint | None, stack: AsyncExitStack
) -> Instance:
    """Return one instance; its client is closed with `stack`."""
    client = remote.at(address).client()
    connecting = asyncio.create_task(_connect(client), name=f"rap connect {address}")
    stack.push_async_callback(_close, client, connecting)
    await asyncio.sleep(0)  # from here on it has a cluster
    return Instance(address, client, endpoint)


async def look(instance: Instance, patience: float) -> tuple[float, ServerLoad | None]:
    """Return the seconds that an answer took, and how loaded the server says it is.

    Raises:
        CallError: As `round_trip`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    node, conn = await _connected(instance, end, patience)
    seconds = await _answer(instance, conn, end, patience)
    told = loop.create_future()

    def take(conn: Connection, body: bytes) -> None:
        node.take_report(conn, body)
        if not told.done():
            told.set_result(node.report)

    conn.set_load_handler(take)
    node.request_load_report()  # when the call above is over: it would be in the count
    with suppress(TimeoutError):  # an older server does not know the question
        async with asyncio.timeout_at(end):
            return seconds, await told
    return seconds, None


async def round_trip(instance: Instance, patience: float) -> float:
    """Return the seconds that an answer took.

    Raises:
        Unavailable: It is not connected.
        DeadlineExceeded: No answer came in so many seconds.
    """
    end = asyncio.get_running_loop().time() + patience
    _, conn = await _connected(instance, end, patience)
    return await _answer(instance, conn, end, patience)


async def _connected(instance: Instance, end: float, patience: float) -> tuple[Node, Connection]:
    """Return a connection; does not wait for an instance that has refused one."""
    client, loop = instance.client, asyncio.get_running_loop()
    cluster = client.cluster
    while not cluster.ready:
        pool = next((node.pool for node in cluster.nodes.values()), None)
        if pool is not None and pool.denial is not None:
            raise pool.denial
        if pool is not None and refuses(cluster):
            raise Unavailable(pool.error)
        if loop.time() >= end:
            raise Unavailable(f"there was no connection in {patience:g} s")
        await asyncio.sleep(_LOOK)
    return await cluster.acquire(client.monotonic() + end - loop.time())


async def _answer(instance: Instance, conn: Connection, end: float, patience: float) -> float:
    monotonic = instance.client.monotonic
    began = monotonic()
    stream = UnaryStream(conn, began + patience)
    conn.open_unary(stream, _NOBODY, b"")
    try:
        async with asyncio.timeout_at(end):
            await stream.future
    except TimeoutError:
        conn.reset(stream, Code.CANCELLED, "no answer came in time")
        raise DeadlineExceeded(f"nothing came in {patience:g} s") from None
    except CallError as error:
        if not error.remote:
            raise
    return monotonic() - began


async def _connect(client: Client) -> None:
    try:
        await client.connect()
    except CallError:
        return  # who asks it something is told why


async def _close(client: Client, connecting: asyncio.Task[None]) -> None:
    connecting.cancel()
    await asyncio.wait([connecting])
    await client.await_close()
