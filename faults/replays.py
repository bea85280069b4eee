"""Rows 13 to 17: what was captured, changed, or made under a wrong clock."""

import asyncio
import contextlib
import secrets
import sys
import time
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from faults.raw import speaking
from faults.scenario import Measured, Scale, Scenario
from rap.client import Client
from rap.errors import CallError, Code
from rap.redis.client import RedisClient
from rap.shared_state import StateUnavailable, state_from_url
from rap.shared_state.redis import RedisNonces
from rap.wire.frames import read_reset
from tests.fake_clock import FakeClock
from tests.fault_proxy import Fate, FaultProxy
from tests.loopback import serving
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto, encrypted_client
from tests.processor.ends import Ends
from tests.processor.relay import relaying
from tests.redis_server import RedisSentinel, RedisServer, find_redis_server

__all__ = ["SCENARIOS"]

_ROOT = Path(__file__).parents[1]
_NONCES = 10_000
_SKIPPED = Measured("no redis-server found", None)


async def replayed_bytes(scale: Scale) -> Measured:
    """Bytes of an encrypted connection are sent again to three instances."""
    ran = 0

    async def count(value: int) -> None:
        nonlocal ran
        ran += 1

    codes: set[int] = set()
    offered = 0
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(3):
            crypto = [ServerCrypto({KEY_ID: KEY})]
            servers.append(await stack.enter_async_context(serving(count, processor_list=crypto)))
        relay = await stack.enter_async_context(relaying(servers[0].addresses[0].port))
        crypto_of_client = [ClientCrypto(KEY_ID, KEY)]
        async with Client(relay.address, processor_list=crypto_of_client) as client:
            for i in range(50):
                await client.raw_call("count", i)
        while offered < scale.replays:
            port = servers[offered % 3].addresses[0].port
            async with speaking(port, relay.sent) as raw:
                codes |= {read_reset(each.body)[0] for each in await raw.resets(50)}
            offered += 50
    text = f"{offered} calls sent again to 3 instances: {ran - 50} accepted"
    refused = codes == {Code.UNAUTHENTICATED}
    guard, good = await _guard_alone()
    return Measured(f"{text}; {guard}", ran == 50 and refused and good is not False)


_CHILD = """
import asyncio, sys
from rap.shared_state import state_from_url

async def main():
    store = state_from_url(sys.argv[1]).nonces()
    for start in range(0, int(sys.argv[2]), 100):
        names = range(start, start + 100)
        new = await asyncio.gather(*(store.claim(str(n), ttl=60) for n in names))
        print(*(n for n, is_new in zip(names, new) if is_new))
    await store.aclose()

asyncio.run(main())
"""


async def _guard_alone() -> tuple[str, bool | None]:
    """Offer every nonce to three processes that share a store."""
    if find_redis_server() is None:
        return _SKIPPED
    with TemporaryDirectory() as folder, RedisServer(Path(folder)) as redis:
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CHILD, redis.url, str(_NONCES)),
                stdout=asyncio.subprocess.PIPE,
                cwd=_ROOT,
            )
            for _ in range(3)
        ]
        outputs = await asyncio.gather(*(child.communicate() for child in children))
    accepted = sorted(int(word) for output, _ in outputs for word in output.split())
    once = accepted == list(range(_NONCES))
    text = "each once" if once else f"{len(accepted)} acceptances"
    return f"{_NONCES} nonces x 3 processes: {text}", once


async def failover(scale: Scale) -> Measured:
    """The primary of a shared store is killed again and again."""
    if find_redis_server() is None:
        return _SKIPPED
    accepted = offered = 0
    slowest = 0.0
    with TemporaryDirectory() as folder, RedisSentinel(Path(folder)) as group:
        redis = RedisClient(group.url, timeout=0.5)
        async with aclosing(RedisNonces(redis, "faults")) as nonces:
            for number in range(scale.failovers):
                for node in group.nodes:
                    node.command("CONFIG", "SET", "min-replicas-to-write", 1)
                    node.command("CONFIG", "SET", "min-replicas-max-lag", 1)
                names = [f"{number}-{n}" for n in range(100)]
                taken = [name for name in names if await _claims(nonces, name)]
                group.primary.kill()
                gone, answers = time.monotonic(), False
                while not answers and time.monotonic() - gone < 30:
                    began = time.monotonic()
                    answers = await _answers(nonces)
                    slowest = max(slowest, time.monotonic() - began)
                    await asyncio.sleep(0.02)
                for name in taken:
                    offered += 1
                    accepted += await _claims(nonces, name)
                await asyncio.to_thread(group.heal)
    text = f"{scale.failovers} failovers, {offered} nonces offered again: the guard alone accepted "
    text += f"{accepted} (end to end: row 13); refusals took <= {slowest:.1f} s"
    return Measured(text, slowest <= 4 and offered > 0)


async def _claims(nonces: RedisNonces, name: str) -> bool:
    try:
        return await nonces.claim(name, ttl=600)
    except StateUnavailable:
        return False


async def _answers(nonces: RedisNonces) -> bool:
    try:
        await nonces.claim(secrets.token_hex(8), ttl=60)
    except StateUnavailable:
        return False
    return True


async def lost_replies(scale: Scale) -> Measured:
    """A proxy drops a thousand answers of the shared store."""
    if find_redis_server() is None:
        return _SKIPPED
    refused = count = 0
    with TemporaryDirectory() as folder, RedisServer(Path(folder)) as redis:
        async with FaultProxy(redis.port) as proxy:
            turn = 0

            def judge(data: bytes) -> Fate:
                nonlocal turn
                if not data.startswith(b":"):  # an older Redis does not know all that is asked
                    return Fate.PASS
                turn += 1
                return Fate.CUT if turn % 2 else Fate.PASS

            proxy.judge = judge
            async with aclosing(state_from_url(proxy.url).nonces()) as nonces:
                while proxy.lost < 1000:
                    refused += not await nonces.claim(str(count), ttl=60)
                    count += 1
            lost = proxy.lost
    return Measured(f"{lost} replies lost in {count} claims: {refused} refused", refused == 0)


async def clock_jump(scale: Scale) -> Measured:
    """The clock of either side jumps by 90 s, while calls are in flight."""
    answered = told = 0
    for jumps in ("client", "server"):
        clocks = {"client": FakeClock(), "server": FakeClock()}
        go_on, begun = asyncio.Event(), asyncio.Semaphore(0)
        processors = [ServerCrypto({KEY_ID: KEY}, clock=clocks["server"])]
        async with serving(processor_list=processors) as server:

            @server.register
            async def slow(n: int) -> int:
                begun.release()  # noqa: B023  # it is called within this round
                await go_on.wait()  # noqa: B023
                return n

            processor = ClientCrypto(KEY_ID, KEY, clock=clocks["client"])
            async with encrypted_client(server, processor=processor) as client:
                calls = [asyncio.create_task(client.raw_call("slow", n)) for n in range(100)]
                for _ in calls:
                    await begun.acquire()
                clocks[jumps].advance(90)
                go_on.set()
                answers = await asyncio.gather(*calls, return_exceptions=True)
                answered += sum(answer == n for n, answer in enumerate(answers))
                try:
                    await client.raw_call("slow", 1)
                except CallError as exc:
                    told += exc.code is Code.FAILED_PRECONDITION
    text = f"{answered} of 200 calls in flight answered, distinct errors {told} of 2"
    return Measured(text, answered == 200 and told == 2)


async def flipped_bits(scale: Scale) -> Measured:
    """Every bit of sealed frames is flipped."""
    ends, flips, accepted = Ends(), 0, 0
    for number in range(scale.sealed_frames):
        header, body = await ends.ask(ends.call(), number)
        for bit in range(len(body) * 8):
            changed = bytearray(body)
            changed[bit // 8] ^= 1 << bit % 8
            flips += 1
            sealed = (header, bytes(changed))
            with contextlib.suppress(CallError):
                await ends.hear(ends.arriving(sealed), sealed)
                accepted += 1
    text = f"{flips} flips in {scale.sealed_frames} frames: {accepted} accepted"
    return Measured(text, accepted == 0 and flips > 0)


SCENARIOS = (
    Scenario(13, "replay to any instance", "0 accepted; each nonce once", replayed_bytes),
    Scenario(14, "replay across a failover", "guard alone counted, refusal <= 4 s", failover),
    Scenario(15, "1,000 lost Redis replies", "0 false refusals", lost_replies),
    Scenario(16, "clock jumps by 90 s", "0 dropped, distinct error", clock_jump),
    Scenario(17, "every bit flipped", "0 accepted", flipped_bits),
)
