"""Connections inside the process: both ends get what was written, and learn of the end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from rap.address import Address
from rap.transport.inproc import InprocServer, InprocTransport, connect, link_of, new_address
from tests.loopback import eventually, within


class End(asyncio.BufferedProtocol):
    """One end, which takes ten bytes at a time."""

    transport: InprocTransport
    address: Address

    def __init__(self) -> None:
        self.got = b""
        self.ended = asyncio.Event()
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, InprocTransport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        self._buffer = bytearray(10)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self._buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    @property
    def unread(self) -> int:
        return self.transport.get_write_buffer_size()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[End, End]]:
    accepted: list[End] = []

    def accept() -> End:
        accepted.append(End())
        return accepted[0]

    address = new_address("ends")
    listener = InprocServer(address, accept)
    here = await connect(address, End)
    await eventually(lambda: accepted)
    here.address = address
    yield here, accepted[0]
    await both_have_ended(here, accepted[0])
    listener.close()


async def both_have_ended(one: End, other: End) -> None:
    await within(asyncio.gather(one.ended.wait(), other.ended.wait()))


async def test_what_is_longer_than_a_buffer_counts_as_read_once(ends: tuple[End, End]) -> None:
    here, there = ends
    here.transport.write(b"x" * 95)
    assert here.unread == 95
    await eventually(lambda: len(there.got) == 95 and here.unread == 0)
    here.transport.write(b"y" * 95)
    here.transport.close()
    await both_have_ended(here, there)
    assert there.got == b"x" * 95 + b"y" * 95


async def test_an_end_whose_words_the_other_never_reads_ends_too(ends: tuple[End, End]) -> None:
    here, there = ends
    there.transport.pause_reading()
    here.transport.write(b"hello")
    there.transport.close()
    await both_have_ended(here, there)
    assert there.got == b""


async def test_words_that_cross_the_close_of_the_other_end_are_lost(ends: tuple[End, End]) -> None:
    here, there = ends
    there.transport.close()
    here.transport.write(b"hello")
    await both_have_ended(here, there)
    assert there.got == b""


async def test_both_ends_may_close_at_the_same_time(ends: tuple[End, End]) -> None:
    here, there = ends
    here.transport.write(b"hello")
    here.transport.close()
    there.transport.close()
    await both_have_ended(here, there)


async def test_an_end_learns_of_a_close_that_was_held(ends: tuple[End, End]) -> None:
    here, there = ends
    held = link_of(here.address)
    held.hold()
    here.transport.close()
    await within(here.ended.wait())
    assert not there.ended.is_set()
    held.release()
    await both_have_ended(here, there)
    assert held.transports == []


async def test_an_end_that_does_not_read_ends_when_it_reads_on(ends: tuple[End, End]) -> None:
    here, there = ends
    there.transport.pause_reading()
    here.transport.write(b"hello")
    here.transport.close()
    for _ in range(10):
        await asyncio.sleep(0)
    there.transport.write(b"too late")
    assert not there.ended.is_set()
    there.transport.resume_reading()
    await both_have_ended(here, there)
    assert there.got == b"hello"


async def test_an_end_whose_loop_was_closed_disturbs_no_other(ends: tuple[End, End]) -> None:
    here, there = ends

    async def connect_only() -> None:
        await connect(here.address, End)

    await asyncio.to_thread(lambda: asyncio.run(connect_only()))
    here.transport.write(b"hello")
    link = link_of(here.address)
    for act in (link.hold, link.release, link.cut):
        act()
    await both_have_ended(here, there)
