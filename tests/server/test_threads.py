"""The threads of `def` handlers: as many as are needed, and they end with their pool."""

import asyncio
import gc
import threading
import weakref

import pytest

from rap.client import SyncClient
from rap.errors import DeadlineExceeded
from rap.server.stats import server_status
from rap.server.threads import Threads
from tests.loopback import calling, eventually, serving, within


def name() -> str:
    return threading.current_thread().name


async def test_there_are_as_many_threads_as_running_functions() -> None:
    pool = Threads(4)
    assert {await pool.run(name) for _ in range(20)} == {"rap-handler_0"}
    barrier = threading.Barrier(4, timeout=10)

    def meet() -> str:
        barrier.wait()
        return name()

    met = await within(asyncio.gather(*(pool.run(meet) for _ in range(8))))
    assert {*met} == {f"rap-handler_{n}" for n in range(4)}
    pool.close()


async def test_closing_cancels_waiting_jobs_and_lets_running_ones_finish() -> None:
    pool, go_on, began = Threads(1), threading.Event(), threading.Event()

    def run() -> str:
        began.set()
        go_on.wait(10)
        return "done"

    running = asyncio.ensure_future(pool.run(run))
    await asyncio.to_thread(began.wait, 10)
    waiting = asyncio.ensure_future(pool.run(name))
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(asyncio.CancelledError):
        await within(waiting)
    go_on.set()
    assert await within(running) == "done"


async def test_a_cancelled_job_is_not_started() -> None:
    pool, go_on = Threads(1), threading.Event()
    begun: list[int] = []
    blocking = asyncio.ensure_future(pool.run(go_on.wait, (10,)))
    waiting = asyncio.ensure_future(pool.run(begun.append, (1,)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    go_on.set()
    assert await within(blocking)
    await pool.run(name)
    assert begun == []
    pool.close()


@pytest.mark.parametrize("how", ["closed", "dropped"])
async def test_threads_end_with_their_pool(how: str) -> None:
    pool = Threads(2)
    found = await asyncio.gather(*(pool.run(threading.current_thread) for _ in range(20)))
    threads = {*found}
    if how == "closed":
        pool.close()
        pool.close()
    del pool
    gc.collect()
    await eventually(lambda: not any(thread.is_alive() for thread in threads))


async def test_a_thread_keeps_no_reference_to_a_finished_call() -> None:
    class Argument:
        """Something that is noticed to be gone."""

    pool = Threads(1)
    argument = Argument()
    gone = weakref.ref(argument)
    assert await pool.run(id, (argument,)) == id(argument)
    del argument
    await eventually(lambda: gone() is None)
    pool.close()


async def test_every_kind_of_error_is_raised_to_the_caller() -> None:
    class Quit(BaseException):
        """No `Exception`."""

    def fail() -> None:
        raise Quit("given up")

    pool = Threads(1)
    with pytest.raises(Quit, match="given up"):
        await pool.run(fail)
    assert await pool.run(name) == "rap-handler_0"
    pool.close()


async def test_calls_fail_while_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = Threads(2)
    ran: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await pool.run(ran.append, (1,))
    assert await within(pool.run(name)) == "rap-handler_0"
    assert not ran
    go_on = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        calls = asyncio.gather(pool.run(go_on.wait), pool.run(name))
        await asyncio.sleep(0)
        go_on.set()
        assert (await within(calls))[1] == "rap-handler_0"  # by the one that there is
    pool.close()


async def test_a_call_that_gets_no_thread_before_its_deadline_says_so() -> None:
    go_on = threading.Event()

    def block() -> None:
        go_on.wait(10)

    def wanted() -> int:
        return 1

    async with serving(block, wanted, threads=1) as server, calling(server) as client:
        blocked = asyncio.create_task(client.raw_call("block"))
        await eventually(lambda: server_status(server).threads_busy == 1)
        text = (
            r"/default/wanted: .*waited 0\.\d s for one of 1 threads \(running there: /default/bl"
        )
        with pytest.raises(DeadlineExceeded, match=text) as caught:
            await client.raw_call("wanted", timeout=0.5)
        assert caught.value.remote
        status = server_status(server)
        assert (status.threads, status.threads_waiting, status.threads_expired) == (1, 0, 1)
        go_on.set()
        await within(blocked)
        assert await client.raw_call("wanted") == 1
        await eventually(lambda: server_status(server).threads_busy == 0)
        assert server_status(server).threads_waited > 0.3


async def test_the_run_timeout_of_a_call_that_waits_for_a_thread_names_the_wait() -> None:
    go_on = threading.Event()

    def block() -> None:
        go_on.wait(10)

    async with serving(block, threads=1, run_timeout=0.3) as server, calling(server) as client:
        calls = [asyncio.create_task(client.raw_call("block", timeout=5)) for _ in range(2)]
        errors = await within(asyncio.gather(*calls, return_exceptions=True))
        go_on.set()
    running, waiting = map(str, errors)
    assert "its run_timeout of 0.3 s passed while the handler was running" in running
    assert "waited 0.3 s for one of 1 threads (running there: /default/block)" in waiting


async def test_functions_that_wait_for_each_other_are_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rap.server.threads._LONG_WAIT", 0.1)
    met = threading.Barrier(2, timeout=10)
    inside: list[SyncClient] = []

    def inner() -> int:
        return 1

    def outer() -> int:
        met.wait()
        try:
            return int(inside[0].raw_call("inner", timeout=0.5))
        finally:
            met.wait()  # neither thread is free before both calls have ended

    async with serving(inner, outer, threads=2) as server, calling(server) as client:
        inside.append(sync := SyncClient(str(server.addresses[0])))
        await asyncio.to_thread(sync.connect)
        calls = [asyncio.create_task(client.raw_call("outer")) for _ in range(2)]
        errors = await within(asyncio.gather(*calls, return_exceptions=True))
        await asyncio.to_thread(sync.close)
    for error in errors:
        assert isinstance(error, DeadlineExceeded)
        assert "for one of 2 threads (running there: /default/outer (2))" in str(error)
    (told,) = (each for each in caplog.messages if "threads are busy" in each)
    assert "all 2 threads are busy (running there: /default/outer (2)), and 2 calls wait" in told
    assert "they wait for each other" in told


async def test_a_client_with_one_call_waits_for_one_call_of_a_greedy_one() -> None:
    permits = threading.Semaphore(0)

    def hold() -> None:
        assert permits.acquire(timeout=30)

    def quick() -> int:
        return 1

    async with (
        serving(hold, quick, threads=1) as server,
        calling(server) as greedy,
        calling(server) as polite,
    ):
        held = [asyncio.create_task(greedy.raw_call("hold", timeout=30)) for _ in range(20)]
        await eventually(lambda: server_status(server).threads_waiting == 19)
        asked = asyncio.create_task(polite.raw_call("quick", timeout=30))
        await eventually(lambda: server_status(server).threads_waiting == 20)
        permits.release()  # the call that runs ends, and no other
        assert await within(asked) == 1
        permits.release(20)
        await within(asyncio.gather(*held))


async def test_calls_of_a_greedy_client_do_not_refuse_those_of_another() -> None:
    def work() -> int:
        threading.Event().wait(0.01)
        return 1

    async with (
        serving(work, threads=1) as server,
        calling(server, max_attempts=1) as greedy,
        calling(server, max_attempts=1) as polite,
    ):
        assert await greedy.raw_call("work") == 1  # now its time is known
        asked = [asyncio.create_task(greedy.raw_call("work", timeout=60)) for _ in range(500)]
        await eventually(lambda: server_status(server).threads_waiting > 400)
        for _ in range(5):
            assert await within(polite.raw_call("work", timeout=2)) == 1
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await eventually(lambda: server_status(server).threads_waiting == 0)


async def test_cancelled_jobs_do_not_make_others_look_short() -> None:
    pool, go_on = Threads(1), threading.Event()
    blocking = asyncio.ensure_future(pool.run(go_on.wait, (10,)))
    waiting = [asyncio.ensure_future(pool.run(name)) for _ in range(50)]
    await eventually(lambda: pool.waiting == 50)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
    assert pool.waiting == 0
    assert pool.expected_wait(None) == 0
    go_on.set()
    assert await within(blocking)
    assert await within(pool.run(name)) == "rap-handler_0"
    pool.close()
