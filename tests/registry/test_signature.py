"""Signed registrations: who writes to the registry without the key leads no client elsewhere."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from rap.address import Address
from rap.client import Client
from rap.client.stats import client_status
from rap.errors import Unavailable
from rap.registry import Endpoint, MemoryRegistry, Registry, Snapshot, State
from rap.registry.signature import SignedResolver, Signer
from rap.registry.url import registry_from_url
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import eventually, serving, within
from tests.transport.recorder import recording

KEY = "a key that the registry does not have"
OTHER = "a key of somebody who can write to it"
DAY = 86_400.0


async def fine() -> int:
    return 1


def endpoint(**fields: Any) -> Endpoint:
    address = fields.pop("address", "10.0.0.1:9000")
    given = {"incarnation": "run", "zone": "a", "metadata": {"wire": "1"}, **fields}
    return Endpoint(given.pop("id", address), Address.parse(address), **given)


def signer(clock: FakeClock, key: str = KEY, service: str = "calc") -> Signer:
    return Signer(key.encode(), service, clock)


@asynccontextmanager
async def watching(
    registry: Any, clock: FakeClock | None = None, key: str = KEY
) -> AsyncIterator[tuple[SignedResolver, Any]]:
    resolver = SignedResolver(registry, key.encode(), clock)
    watch = resolver.watch("calc")
    try:
        yield resolver, lambda: within(anext(watch))
    finally:
        await watch.aclose()


def written_in(folder: Path) -> str:
    (path,) = folder.rglob("*.json")
    return path.read_text()


class Scripted:
    """A registry whose snapshots a test chooses."""

    last_error = "away"
    degraded, age = True, 3.0

    def __init__(self, *snapshots: list[Endpoint]) -> None:
        self.snapshots: list[Snapshot] = [{each.id: each for each in it} for it in snapshots]

    async def register(self, service: str, endpoint: Endpoint, *, ttl: float) -> None:
        raise NotImplementedError

    async def watch(self, service: str) -> AsyncIterator[Snapshot]:
        for snapshot in self.snapshots:
            yield snapshot

    async def aclose(self) -> None:
        self.snapshots = []


# One registration.


def test_what_was_signed_is_valid_for_a_day(clock: FakeClock) -> None:
    signed = signer(clock).sign(endpoint())
    assert signer(clock).find_fault(signed) == ""
    clock.advance(DAY - 2)
    assert signer(clock).find_fault(signed) == ""
    clock.advance(3)
    assert signer(clock).find_fault(signed) == "its signature has expired"
    assert signer(clock).find_fault(signed, is_known=True) == ""


def test_an_endpoint_is_signed_again_when_half_the_time_is_over(clock: FakeClock) -> None:
    mine = signer(clock)
    first = mine.sign(endpoint())
    clock.advance(DAY / 2 - 1)
    assert mine.sign(endpoint()) == first
    clock.advance(2)
    second = mine.sign(endpoint())
    assert second != first
    clock.advance(DAY - 2)
    assert signer(clock).find_fault(second) == ""


def test_a_change_is_signed_at_once(clock: FakeClock) -> None:
    mine = signer(clock)
    mine.sign(endpoint())
    draining = mine.sign(endpoint(state=State.DRAINING))
    assert draining.state is State.DRAINING
    assert signer(clock).find_fault(draining) == ""


def test_without_the_key_nothing_can_be_changed(clock: FakeClock) -> None:
    signed = signer(clock).sign(endpoint())
    until = signed.metadata["sig_until"]
    changes: list[dict[str, Any]] = [
        {"id": "10.0.0.2:9000"},
        {"address": Address.parse("10.0.0.2:9000")},
        {"address": Address.parse("tls://10.0.0.1:9000")},
        {"address": Address.parse("unix:///tmp/s")},
        {"weight": 1000},
        {"state": State.DRAINING},
        {"incarnation": "other"},
        {"zone": "b"},
        {"metadata": {**signed.metadata, "wire": "2"}},
        {"metadata": {**signed.metadata, "more": ""}},
        {"metadata": {**signed.metadata, "sig_until": str(int(until) + 1)}},
        {"metadata": {**signed.metadata, "sig_until": "inf"}},
        {"metadata": {k: v for k, v in signed.metadata.items() if k != "sig_until"}},
        {"metadata": {k: v for k, v in signed.metadata.items() if k != "wire"}},
        {"metadata": {**signed.metadata, "sig": "0" * 64}},
        {"metadata": {**signed.metadata, "sig": "\udc80"}},
        {"metadata": {**signed.metadata, "\udc80": ""}},
        {"zone": "\udc80"},
        {"zone": "a" * 1_000_000},
    ]
    for change in changes:
        for is_known in (False, True):
            assert signer(clock).find_fault(signed.replace(**change), is_known=is_known), change
    for other in (signer(clock, OTHER), signer(clock, service="shop")):
        assert other.find_fault(signed)
        assert signer(clock).find_fault(other.sign(endpoint()))
    assert signer(clock).find_fault(endpoint()) == "it is not signed"


def test_fields_cannot_be_moved_into_each_other(clock: FakeClock) -> None:
    signed = signer(clock).sign(endpoint(zone="ab", incarnation="c"))
    assert signer(clock).find_fault(signed.replace(zone="a", incarnation="bc"))


@pytest.mark.parametrize("state", [State.UP, State.DRAINING])
def test_a_lease_that_has_expired_needs_no_new_signature(clock: FakeClock, state: State) -> None:
    """Registries tell so by the state."""
    signed = signer(clock).sign(endpoint(state=state))
    assert signer(clock).find_fault(signed.replace(state=State.SUSPECT)) == ""


# What clients see.


async def test_a_watch_leaves_out_what_is_not_signed(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    good = signer(clock).sign(endpoint())
    bad = [endpoint(address=f"10.0.1.{n}:9000") for n in range(200)]
    registry = Scripted([good, *bad], [good, *bad[:100]], [*bad, good.replace(weight=7)], [good])
    async with watching(registry, clock) as (resolver, following):
        assert await following() == {"10.0.0.1:9000": endpoint()}  # without the signature
        assert resolver.refused == 200
        assert await following() == {}
        assert resolver.refused == 301
        assert await following() == {"10.0.0.1:9000": endpoint()}
    (line,) = caplog.messages
    assert line.startswith("calc: 200 registrations are ignored (option registry_key); 10.0.1.0:")
    assert line.endswith("it is not signed")


async def test_a_hostile_registration_is_one_line_in_the_log(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = endpoint(id="x\n\x1b[2J" * 1000, zone="\udc80", metadata={"sig": "\udc80"})
    async with watching(Scripted([hostile]), clock) as (_, following):
        assert await following() == {}
    (line,) = caplog.messages
    assert line.isprintable()
    assert len(line) < 500


async def test_what_was_accepted_stays_so_while_the_registry_is_away(clock: FakeClock) -> None:
    good, late = signer(clock).sign(endpoint()), signer(clock).sign(endpoint(address="a:1"))
    suspect = good.replace(state=State.SUSPECT)

    class Slow(Scripted):
        async def watch(self, service: str) -> AsyncIterator[Snapshot]:
            yield self.snapshots[0]
            clock.advance(2 * DAY)
            for snapshot in self.snapshots[1:]:
                yield snapshot

    registry = Slow([good], [suspect, late], [good, endpoint(address="a:2")], [late])
    async with watching(registry, clock) as (resolver, following):
        assert list(await following()) == ["10.0.0.1:9000"]
        seen = await following()
        assert [it.state for it in seen.values()] == [State.SUSPECT]  # `late` came too late
        assert [it.state for it in (await following()).values()] == [State.UP]
        assert await following() == {}
        assert resolver.refused == 3


async def test_a_client_with_the_key_is_led_to_no_other_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = MemoryRegistry()
    options: dict[str, Any] = {"service": "calc", "registry": registry}
    with recording() as recorder:
        async with serving(fine, drain_delay=0, registry_key=KEY, **options) as server:
            snapshots = registry.watch("calc")
            (genuine,) = (await anext(snapshots)).values()
            await snapshots.aclose()
            lies = [
                Endpoint(str(recorder.address), recorder.address),
                genuine.replace(id="b:1", address=recorder.address),
                signer(FakeClock(), OTHER).sign(Endpoint("a:1", recorder.address)),
            ]
            for lie in lies:
                await registry.register("calc", lie, ttl=60)
            async with Client(registry_key=KEY, **options) as client:
                assert [await client.raw_call("fine") for _ in range(20)] == [1] * 20
                assert list(client.cluster.nodes) == [str(server.addresses[0])]
                await eventually(lambda: client_status(client).records_refused == 3)
                assert client_status(client).degraded is None
            with pytest.raises(Unavailable):
                async with Client(registry_key=OTHER, connect_timeout=0.2, **options):
                    pass
            assert (recorder.ended, recorder.received) == (0, b"")
            async with Client(**options) as trusting:  # without a key, signatures do not matter
                await eventually(lambda: len(trusting.cluster.nodes) > 1)
    assert sum("registrations are ignored" in each for each in caplog.messages) == 2


async def test_signatures_pass_through_files_and_follow_the_state(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    options: dict[str, Any] = {"service": "calc", "registry": url, "registry_key": KEY}
    async with serving(fine, drain_delay=0, **options) as server:
        async with Client(**options) as client:
            assert await client.raw_call("fine") == 1
            node = next(iter(client.cluster.nodes.values()))
            await server.set_serving(False)
            await eventually(lambda: node.endpoint.state is State.DRAINING)
            await server.set_serving(True)
            await eventually(lambda: node.endpoint.state is State.UP)
        text = written_in(tmp_path)
        assert set(json.loads(text)["meta"]) >= {"sig", "sig_until"}
        assert KEY not in text
        async with watching(registry_from_url(url)) as (_, following):
            (seen,) = (await following()).values()
            assert not {"sig", "sig_until"} & set(seen.metadata)


async def test_a_signed_resolver_tells_what_the_registry_tells() -> None:
    registry = Scripted()
    resolver = SignedResolver(cast(Registry, registry), KEY.encode())
    assert (resolver.last_error, resolver.degraded, resolver.age) == ("away", True, 3.0)
    await resolver.aclose()


# Options.


@pytest.mark.parametrize("kind", [Client, Server])
def test_a_key_must_be_a_secret(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    for bad, text in (("short", "at least 16 bytes, got 5"), (b"x" * 15, "at least 16 bytes")):
        with pytest.raises(ValueError, match=text) as caught:
            kind(registry_key=bad)
        assert str(bad) not in str(caught.value)
    with pytest.raises(ValueError, match="registry_key must be a string or bytes, got int"):
        kind(registry_key=1)
    made = kind(service="calc", registry=MemoryRegistry(), registry_key=KEY)
    assert KEY not in repr(made.config)


@pytest.mark.parametrize("url", ["static://a:1", "dns://a:1"])
def test_addresses_that_nobody_registers_have_no_signature(url: str) -> None:
    with pytest.raises(ValueError, match="registry_key needs a registry in which servers register"):
        Client(service="calc", registry=url, registry_key=KEY)
