"""One budget of memory for all clients: who holds the most is cut, the rest go on."""

import asyncio
import zlib
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from faults.raw import flooding
from rap.channel import Channel
from rap.client import Client
from rap.errors import ResourceExhausted
from rap.observe.metrics import StatusCollector
from rap.server import Server
from rap.server.memory import MemoryBudget
from rap.server.processor import CompressProcessor
from rap.server.stats import limits_of
from rap.wire.codec import pack
from tests.loopback import calling, eventually, serving, within

KIB = 1024
MIB = 1024 * KIB
SMALL: dict[str, Any] = {"max_memory": 4 * MIB, "max_message": MIB, "run_timeout": 60}


async def echo(value: bytes) -> bytes:
    return value


async def hold(data: bytes) -> None:
    await asyncio.Event().wait()


async def large(size: int) -> bytes:
    return b"x" * size


async def deaf(channel: Channel) -> None:
    await asyncio.Event().wait()


def budget_of(server: Server) -> MemoryBudget:
    budget = server.connection_manager.memory
    assert budget is not None
    return budget


def port_of(server: Server) -> int:
    return server.addresses[0].port


async def others_are_served(server: Server) -> None:
    async with calling(server) as client:
        for _ in range(5):
            assert await within(client.raw_call("echo", b"x" * 50 * KIB)) == b"x" * 50 * KIB


async def test_calls_with_small_arguments_count(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(hold, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        for _ in range(1000):
            flood.call("hold", pack([b"x" * 16_000]))
        flood.send()
        await within(flood.sent())
        await eventually(lambda: flood.resets > 800)
        assert budget_of(server).held <= 4 * MIB
        await others_are_served(server)
        assert len(server.connection_manager.connections) >= 1
        (refused,) = (each for each in limits_of(server) if each.name == "max_memory")
        await eventually(lambda: refused.refused == flood.resets)
    (line,) = [each for each in caplog.messages if "calls were ended" in each]
    assert "MiB were held for clients, max_memory is 4 MiB; the most for 127.0.0.1:" in line


async def test_the_connection_with_the_most_is_cut_and_its_calls_say_so() -> None:
    async with serving(hold, echo, **SMALL) as server, calling(server) as modest:
        waiting = asyncio.create_task(modest.raw_call("hold", b"x" * 300 * KIB))
        async with calling(server, max_connections=1) as greedy:
            calls = [
                asyncio.create_task(greedy.raw_call("hold", b"y" * 300 * KIB)) for _ in range(8)
            ]
            done, left = await asyncio.wait(calls, timeout=10, return_when="FIRST_COMPLETED")
            for call in done:
                with pytest.raises(
                    ResourceExhausted, match="max_memory is 4 MiB, and this connection has the most"
                ) as error:
                    call.result()
                assert error.value.details["limit"] == "max_memory"
                assert error.value.remote
            assert left
            assert not waiting.done()
            await others_are_served(server)
            for call in (*left, waiting):
                call.cancel()
            await asyncio.wait([*left, waiting])
        await eventually(lambda: budget_of(server).held == 0)


async def test_messages_that_have_arrived_in_part_count() -> None:
    async with serving(hold, echo, **SMALL) as server:
        floods = []
        async with flooding(port_of(server)) as one, flooding(port_of(server)) as two:
            floods = [one, two]
            for flood in floods:
                for _ in range(4):
                    flood.call("hold", b"x" * (MIB - KIB))
                flood.send(keep=400 * KIB)
            await asyncio.gather(*(within(flood.sent()) for flood in floods))
            await eventually(lambda: sum(flood.resets for flood in floods) >= 4)
            assert budget_of(server).held <= 4 * MIB
            assert not any(flood.lost.done() for flood in floods)
            await others_are_served(server)
        await eventually(lambda: budget_of(server).held == 0)


async def test_answers_that_wait_to_be_sent_count() -> None:
    async with serving(large, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        flood.pause_reading()
        for _ in range(30):
            flood.call("large", pack([700 * KIB]))
        flood.send()
        await eventually(lambda: budget_of(server).refused)
        await eventually(lambda: budget_of(server).held <= 4 * MIB)
        await others_are_served(server)


async def test_messages_that_no_function_reads_count() -> None:
    async with serving(deaf, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        for _ in range(10):
            flood.channel("deaf", *[b"x" * 100 * KIB] * 8)
        flood.send()
        await eventually(lambda: flood.resets >= 5)
        assert budget_of(server).held <= 4 * MIB
        await others_are_served(server)


async def test_a_compressed_request_counts_as_it_will_be_before_it_is_inflated() -> None:
    options = {**SMALL, "processor_list": [CompressProcessor()]}
    async with serving(hold, echo, **options) as server, flooding(port_of(server)) as flood:
        content = pack([b"x" * 900 * KIB])
        small = pack(zlib.compress(content))
        assert len(small) < 2 * KIB
        for _ in range(20):
            flood.call("hold", small, deflate=len(content))
        flood.send()
        await eventually(lambda: flood.resets >= 17)
        assert server.connection_manager.open_calls
        assert budget_of(server).held <= 4 * MIB
        await others_are_served(server)


async def test_what_is_held_is_shown_and_falls_to_nothing() -> None:
    async with serving(hold, echo) as server, calling(server) as client:
        registry = CollectorRegistry()
        registry.register(StatusCollector([server]))
        labels = {"address": str(server.addresses[0])}
        call = asyncio.create_task(client.raw_call("hold", b"x" * 100 * KIB))
        await eventually(lambda: server.connection_manager.open_calls)
        held = registry.get_sample_value("rap_server_held_bytes", labels)
        assert held is not None
        assert 200 * KIB <= held < 400 * KIB
        call.cancel()
        await asyncio.wait([call])
        await eventually(
            lambda: registry.get_sample_value("rap_server_held_bytes", labels) == 0,
        )


async def test_a_call_that_no_function_has_begun_can_be_retried_elsewhere() -> None:
    async with serving(hold, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        for _ in range(8):
            flood.call("hold", b"x" * (MIB - KIB))
        flood.send(keep=400 * KIB)
        await eventually(lambda: flood.resets)
        assert flood.unserved == flood.resets


async def test_what_very_many_connections_hold_is_found_by_the_timer() -> None:
    """Each holds so little that it does not say so."""
    async with serving(hold, echo, **SMALL) as server:
        budget = budget_of(server)
        clients = [Client(server.addresses, max_connections=1) for _ in range(8)]
        calls = [
            asyncio.create_task(client.raw_call("hold", b"x" * 300 * KIB)) for client in clients
        ]
        await eventually(lambda: budget.refused)
        assert budget.held <= 4 * MIB
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        for client in clients:
            await client.close()


async def test_calls_without_any_bytes_are_cut_before_their_connection_is() -> None:
    options = {**SMALL, "max_memory": MIB}
    async with serving(deaf, echo, **options) as server, flooding(port_of(server)) as flood:
        for _ in range(1000):
            flood.channel("deaf")
        flood.send()
        await eventually(lambda: flood.resets > 400)
        assert budget_of(server).held <= MIB
        assert not flood.lost.done()
        await others_are_served(server)


async def keep(data: Any) -> None:
    await asyncio.Event().wait()


async def test_arguments_count_as_they_are_decoded() -> None:
    async with serving(keep, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        for _ in range(10):
            flood.call("keep", b"\x91\xdc" + (30_000).to_bytes(2, "big") + b"\x80" * 30_000)
        flood.send()
        await eventually(lambda: flood.resets >= 7)
        assert server.connection_manager.open_calls
        assert budget_of(server).held <= 4 * MIB
        await others_are_served(server)


async def test_compressed_arguments_count_as_they_are_decoded() -> None:
    options = {**SMALL, "processor_list": [CompressProcessor()]}
    content = b"\x91\xdc" + (30_000).to_bytes(2, "big") + b"\x80" * 30_000
    async with serving(keep, echo, **options) as server, flooding(port_of(server)) as flood:
        for _ in range(10):
            flood.call("keep", pack(zlib.compress(content)), deflate=len(content))
        flood.send()
        await eventually(lambda: flood.resets >= 7 and budget_of(server).held <= 4 * MIB)
        assert server.connection_manager.open_calls
        await others_are_served(server)


async def test_headers_count_as_they_are_decoded() -> None:
    async with serving(deaf, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        for _ in range(200):
            flood.channel("deaf", header={"x": [{}] * 900})
        flood.send()
        await eventually(lambda: flood.resets >= 100)
        assert budget_of(server).held <= 4 * MIB
        await others_are_served(server)


async def test_small_messages_that_no_function_reads_count_as_objects() -> None:
    async with serving(deaf, echo, **SMALL) as server, flooding(port_of(server)) as flood:
        for _ in range(4):
            flood.channel("deaf", *[b"\xcc\xff"] * 10_000)
        flood.send()
        await eventually(lambda: flood.resets and budget_of(server).held <= 4 * MIB)
        await others_are_served(server)


async def test_a_claim_to_be_large_when_inflated_counts_as_no_more_than_a_message_may_be() -> None:
    options = {**SMALL, "processor_list": [CompressProcessor()]}
    async with serving(hold, echo, **options) as server, calling(server) as modest:
        waiting = asyncio.create_task(modest.raw_call("hold", b"x" * KIB))
        async with flooding(port_of(server)) as flood:
            await eventually(lambda: server.connection_manager.open_calls)
            flood.call("hold", pack(b"x"), deflate=2**62)
            flood.send()
            await eventually(lambda: flood.resets)
            assert budget_of(server).held <= 3 * MIB
            assert not budget_of(server).refused
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
