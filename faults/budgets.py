"""Row 36, and the memory and descriptors of row 31: what all clients together may take."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from faults.raw import Flood, Raw, flooding, speaking
from faults.scenario import Measured, Scale, Scenario
from faults.victim import Victim, attacked, memory_group
from faults.visitor import percentile
from rap.client import Client
from rap.errors import RapError
from rap.wire.codec import pack

__all__ = ["SCENARIOS", "many_clients", "many_small_requests", "unfinished_messages"]

_MIB = 1024 * 1024
_LIMIT = 256 * _MIB
_FILES = 256
_CLIENTS = 400
_CUT = 0.1  # share of the refused clients that may not be told why
_PEERS = 8
_MESSAGES = 8
_REQUESTS = 16_384


async def memory(scale: Scale) -> Measured:
    """Three ways to take much memory, each of a new server in a control group of 256 MiB."""
    texts, good = [], True
    with memory_group(_LIMIT) as group:
        options = {} if group is not None else {"max_memory": _LIMIT // 2}
        where = "a control group of 256 MiB" if group is not None else "max_memory of 128 MiB"
        for attack in (_large_calls, unfinished_messages, many_small_requests):
            async with attacked(group, **options) as victim:
                text, served = await _beside(victim, attack)
                peak = (await victim.vitals())["peak"]
                texts.append(f"{text}, peak {peak // _MIB} MiB")
                good = good and served and peak < _LIMIT
    return Measured(f"in {where}: {'; '.join(texts)}", good)


async def _beside(victim: Victim, attack: Callable[[Victim], Awaitable[str]]) -> tuple[str, bool]:
    visitor = asyncio.create_task(percentile(victim.port, 3.0))
    text = await attack(victim)
    try:
        p99 = await visitor
    except RuntimeError:
        return f"{text}, others FAILED", False
    return f"{text}, p99 of others {p99 * 1000:.0f} ms", True


async def _large_calls(victim: Victim) -> str:
    """20 calls of 15 MB at once, of a client that behaves."""
    data = b"x" * 15_000_000
    async with Client(f"127.0.0.1:{victim.port}", timeout=30, max_connections=1) as client:
        calls = [client.raw_call("echo", data) for _ in range(20)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    outcome = Counter(
        type(each).__name__ if isinstance(each, BaseException) else "answered" for each in answers
    )
    return f"20 calls of 15 MB ({', '.join(f'{n} {what}' for what, n in outcome.items())})"


async def unfinished_messages(
    victim: Victim, *, peers: int = _PEERS, size: int = 16 * _MIB - 1024
) -> str:
    """Messages that break off shortly before their end, eight on each connection."""
    async with AsyncExitStack() as stack:
        floods = [await stack.enter_async_context(flooding(victim.port)) for _ in range(peers)]
        for flood in floods:
            for _ in range(_MESSAGES):
                flood.call("hold", b"x" * size)
            flood.send(keep=_MESSAGES * size // 32)
        await asyncio.gather(*(flood.sent() for flood in floods))
        ended = sum(flood.resets for flood in floods)
    return f"{peers * _MESSAGES} unfinished messages of {size / _MIB:.1f} MiB, {ended} cut"


async def many_small_requests(victim: Victim, *, count: int = _REQUESTS, size: int = 16_000) -> str:
    """Calls that stay open, with a small argument each."""
    async with flooding(victim.port) as flood:
        body = pack([b"x" * size])
        for _ in range(count):
            flood.call("hold", body)
        flood.send()
        await flood.sent()
        await _settled(flood)
        ended = flood.resets
    return f"{count} open calls of {size} bytes, {ended} cut"


async def _settled(flood: Flood) -> None:
    """Wait until no more calls are cut."""
    before = -1
    while before != flood.resets:
        before = flood.resets
        await asyncio.sleep(0.7)


async def descriptors(scale: Scale) -> Measured:
    """More clients than the server may open files."""
    async with attacked(nofile=_FILES) as victim:
        text, good = await many_clients(victim, _CLIENTS)
    return Measured(f"ulimit -n {_FILES}: {text}", good)


async def many_clients(victim: Victim, count: int) -> tuple[str, bool]:
    """Connect so many clients; return what came of it, and whether it is good."""
    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(speaking(victim.port)) for _ in range(count)]
        ends = Counter(await asyncio.gather(*(_end_of(raw) for raw in raws)))
        began = time.monotonic()
        healthy = await _is_healthy(victim.health)
        took = time.monotonic() - began
        alive = await victim.client.raw_call("echo", 1) == 1
    lines = victim.logged("new connections are refused") + victim.logged("cannot accept")
    async with Client(f"127.0.0.1:{victim.port}") as late:
        try:
            recovered = await late.raw_call("echo", 2, timeout=3) == 2
        except RapError:
            recovered = False
    text = (
        f"{count} clients, {ends['told']} told to go elsewhere, {ends['cut']} cut without a word, "
        f"{lines} line{'s' * (lines != 1)} logged, "
    )
    text += f"/healthz {'answers' if healthy else 'is SILENT'} in {took * 1000:.0f} ms, a client "
    text += "that comes later is served" if recovered else "that comes later is NOT served"
    is_told = ends["told"] > 0 and ends["open"] > 0 and ends["cut"] <= _CUT * ends["told"]
    return text, alive and healthy and recovered and is_told and lines == 1


async def _end_of(raw: Raw) -> str:
    """Whether the connection is open, or the server told why it is not, or cut it."""
    data = b""
    try:
        async with asyncio.timeout(2):
            while part := await raw.reader.read(4096):
                data += part
    except TimeoutError:
        return "open"
    except ConnectionError:
        pass
    return "told" if b"takes no more" in data else "cut"


async def _is_healthy(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    try:
        async with asyncio.timeout(5):
            return (await reader.read()).startswith(b"HTTP/1.1 200")
    except (TimeoutError, ConnectionError):
        return False
    finally:
        writer.close()


SCENARIOS = (
    Scenario(31, "400 clients, 256 descriptors", "lives, 1 line, /healthz answers", descriptors),
    Scenario(36, "memory of all clients together", "lives in 256 MiB, others served", memory),
)
