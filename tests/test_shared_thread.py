"""One thread whose functions run in turn."""

import asyncio
import threading

import pytest

from rap import shared_thread
from rap.shared_thread import SharedThread
from tests.loopback import PATIENCE, eventually, within


def rap_threads(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == name]


async def test_the_thread_does_not_keep_the_process_and_ends_when_it_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_thread, "_IDLE", 0.01)
    shared = SharedThread("rap test idle")
    for _ in range(3):  # it starts again
        found = await within(shared.run(("a",), threading.current_thread))
        assert found.daemon
        await eventually(lambda: not rap_threads("rap test idle"))


async def test_the_function_of_another_client_does_not_wait_for_all_of_one() -> None:
    shared, order = SharedThread("rap test turns"), list[str]()
    go_on, begun = threading.Event(), threading.Event()

    def work(name: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        order.append(name)

    calls = [asyncio.create_task(shared.run(("greedy",), work, "greedy")) for _ in range(100)]
    await eventually(begun.is_set)
    calls.append(asyncio.create_task(shared.run(("modest",), work, "modest")))
    await asyncio.sleep(0)
    go_on.set()
    await within(asyncio.gather(*calls))
    assert order.index("modest") == 1
    shared.close("the test is over")


async def test_event_loops_of_different_threads_share_it() -> None:
    shared = SharedThread("rap test loops")

    def from_another_loop() -> threading.Thread:
        return asyncio.run(shared.run(("b",), threading.current_thread))

    here = await within(shared.run(("a",), threading.current_thread))
    assert await within(asyncio.to_thread(from_another_loop)) is here
    shared.close("the test is over")


async def test_an_error_reaches_the_caller_and_the_next_function_runs() -> None:
    shared = SharedThread("rap test errors")

    def fail() -> None:
        raise LookupError("it is not there")

    with pytest.raises(LookupError, match="it is not there"):
        await within(shared.run(("a",), fail))
    assert await within(shared.run(("a",), len, "abc")) == 3
    shared.close("the test is over")
