"""`rap bench`: every call is counted once, by error code and by instance."""

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rap.errors import CallError, Code, ConnectionClosed
from rap.server import Server
from tests.cli.programs import PATIENCE, ROOT, RUNNER, interrupt, line_with, rap
from tests.cli.shop import invoke, shop
from tests.loopback import eventually, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with shop() as server:
        yield server


async def test_n_calls_are_made_and_balanced(server: Server) -> None:
    async with shop() as other:
        result = await invoke(
            server, "bench", "add", "1", "b=2", "-n", "40", "-c", "8", "--connections", "2",
            "--json", "--host", str(other.addresses[0]),
        )  # fmt: skip
    found = json.loads(result.stdout)
    assert (found["calls"], found["failed"], found["errors"]) == (40, 0, {})
    assert result.exit_code == 0
    assert sum(each["calls"] for each in found["instances"]) == 40
    assert sum(each["share"] for each in found["instances"]) == pytest.approx(1.0)
    assert {each["address"] for each in found["instances"]} == {
        str(each.addresses[0]) for each in (server, other)
    }
    figures = found["latency_ms"]
    assert list(figures) == ["min", "avg", "p50", "p90", "p95", "p99", "p99.9", "max"]
    assert 0 < figures["min"] <= figures["p50"] <= figures["p99"] <= figures["max"]


async def test_the_text_is_lines_and_a_table(server: Server) -> None:
    result = await invoke(server, "bench", "count", "3", "-n", "5", "-c", "2")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("calls      5 in ")
    assert lines[0].endswith(" s, 2 in flight, 1 connection to each instance")
    assert lines[3] == "failed     0"
    assert lines[5].split() == ["ms", "calls", "%"]
    assert lines[-2].split() == ["ADDRESS", "CALLS", "SHARE"]
    assert lines[-1].split() == [str(server.addresses[0]), "5", "100.0", "%"]
    assert result.exit_code == 0


async def test_errors_are_counted_by_code() -> None:
    turn = iter(range(100))

    async def work() -> int:
        number = next(turn)
        if number % 4 == 1:
            raise CallError("no", code=Code.ABORTED)
        if number % 4 == 2:
            raise ValueError("no")
        return number

    async with serving(work) as server:
        result = await invoke(server, "bench", "work", "-n", "40", "-c", "4", "--json")
    found = json.loads(result.stdout)
    assert (found["calls"], found["failed"]) == (40, 20)
    assert found["errors"] == {"ABORTED": 10, "UNKNOWN": 10}
    assert result.exit_code == 1


@pytest.mark.parametrize("answered", [0, 1])
async def test_it_ends_after_its_duration_if_calls_hang(answered: int) -> None:
    turn = iter(range(100))

    async def wait() -> None:
        if next(turn) >= answered:
            await asyncio.Event().wait()

    async with serving(wait) as server:
        result = await invoke(server, "bench", "wait", "-d", "0.05", "-c", "4", "--json")
    found = json.loads(result.stdout)
    assert (found["calls"], found["errors"], found["latency_ms"]) == (0, {}, {})
    assert found["seconds"] > 0.04  # timers may ring a little early
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nope"], "UNIMPLEMENTED: no function '/default/nope'"),
        (["add"], "INVALID_ARGUMENT: add(): "),
        (["shout"], "shout is a channel; bench calls functions and generators"),
        (["plainly"], "plainly takes a stream of items; bench calls functions and generators"),
    ],
)
async def test_a_call_that_cannot_succeed_is_not_repeated(
    server: Server, args: list[str], said: str
) -> None:
    result = await invoke(server, "bench", *args)
    assert result.stderr.startswith(f"Error: {said}")
    assert (result.stdout, result.exit_code) == ("", 1)


def test_ctrl_c_ends_it_with_the_measurements_so_far(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(
        "from rap.server import Server\n"
        "server = Server('127.0.0.1:0')\n"
        "calls = iter(range(10**9))\n"
        "@server.register\n"
        "async def add() -> int:\n"
        "    if next(calls) == 100:\n"
        "        print('a hundred', flush=True)\n"
        "    return 1\n"
    )
    with rap("serve", "told:server", cwd=tmp_path) as server:
        address = line_with(server, "rap: listening on").split()[-1]
        with rap("bench", "add", "-d", "3600", "--host", address, cwd=tmp_path) as process:
            line_with(server, "a hundred")
            interrupt(process)
            assert line_with(process, "calls ").split()[1].isdigit()
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("columns", ["20", "60", "200"])
async def test_the_histogram_counts_every_call_and_fits_the_terminal(
    server: Server, columns: str
) -> None:
    result = await invoke(server, "bench", "add", "1", "-n", "200", env={"COLUMNS": columns})
    _, table, _ = result.stdout.split("\n\n")
    head, *rows = table.splitlines()
    cells = [row.split() for row in rows]
    assert sum(int(each[3]) for each in cells) == 200
    assert [each[2] for each in cells[:-1]] == [each[0] for each in cells[1:]]  # no gap
    assert len(cells) <= 24
    assert max(len(row) for row in rows) <= max(int(columns), len(head))
    assert any("#" in row for row in rows) == (columns != "20")


async def test_at_a_rate_a_call_is_timed_from_when_it_should_have_been_made() -> None:
    open_calls = 0
    begun = asyncio.Event()

    async def work() -> None:
        nonlocal open_calls
        open_calls += 1
        if open_calls == 21:  # the first call is not counted
            begun.set()
        await begun.wait()

    async with serving(work) as server:
        begun.set()
        first = asyncio.create_task(
            invoke(server, "bench", "work", "-n", "20", "--rate", "200", "--json")
        )
        await eventually(lambda: open_calls)
        begun.clear()
        result = await first
    found = json.loads(result.stdout)
    # The calls have not waited for answers: all 20 were open before the first was answered.
    assert (found["calls"], found["failed"]) == (20, 0)
    assert found["rate"]["intended"] == 200
    assert found["rate"]["limited_by_concurrency"] is False
    # They arrived over 95 ms, and ended together.
    assert found["latency_ms"]["max"] - found["latency_ms"]["min"] > 80


async def test_a_rate_that_the_client_cannot_keep_is_reported(server: Server) -> None:
    args = ("bench", "add", "1", "-n", "300", "-c", "1", "--rate", "1000000")
    found = json.loads((await invoke(server, *args, "--json")).stdout)
    assert found["calls"] == 300
    assert (found["rate"]["kept"], found["rate"]["limited_by_concurrency"]) == (False, True)
    assert found["latency_ms"]["max"] >= found["rate"]["late_ms"]["p99"] > 10
    text = (await invoke(server, *args)).stdout
    assert "The rate was not kept: 1 % of the calls were made more than " in text
    assert "(1 calls were in flight, see -c)" in text


async def test_calls_that_are_open_long_after_the_last_one_count_as_unanswered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rap.cli.commands.bench._PATIENCE", 0.05)
    turn = iter(range(100))

    async def wait() -> None:
        if next(turn) > 2:
            await asyncio.Event().wait()

    async with serving(wait) as server:
        result = await invoke(server, "bench", "wait", "--rate", "1000", "-n", "10", "--json")
    found = json.loads(result.stdout)
    assert (found["calls"], found["failed"], found["rate"]["unanswered"]) == (10, 0, 8)
    assert result.exit_code == 1


async def test_at_a_rate_calls_without_an_answer_are_counted() -> None:
    turn = iter(range(100))

    async def wait() -> None:
        if next(turn) > 2:
            await asyncio.Event().wait()

    async with serving(wait) as server:
        rate = ("--rate", "1000", "-d", "0.01")
        result = await invoke(server, "bench", "wait", *rate, "--timeout", "0.2", "--json")
    found = json.loads(result.stdout)
    assert found["calls"] == 10
    assert (found["errors"], found["rate"]["unanswered"]) == ({"DEADLINE_EXCEEDED": 8}, 0)
    assert result.exit_code == 1


async def test_an_idempotent_call_is_made_again_after_a_lost_connection(server: Server) -> None:
    calls = 0

    async def drop() -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            for each in server.connection_manager.connections:
                each.abort(ConnectionClosed("test"))

    server.register(drop)
    args = ("bench", "drop", "-n", "3", "-c", "1", "--json")
    without = json.loads((await invoke(server, *args)).stdout)
    calls = 0
    repeated = json.loads((await invoke(server, *args, "--idempotent")).stdout)
    assert without["errors"] == {"UNAVAILABLE": 1}
    assert (repeated["errors"], repeated["calls"]) == ({}, 3)


async def test_an_instance_that_leaves_meanwhile_keeps_its_calls(tmp_path: Path) -> None:
    registry, calls = f"file://{tmp_path}", Counter[str]()
    options = {"service": "shop", "registry": registry, "drain_delay": 0.5}
    async with serving(**options) as stays, serving(**options) as leaves:
        gone = asyncio.Event()

        def counting(server: Server) -> None:
            address = str(server.addresses[0])

            async def mark() -> None:
                calls[address] += 1
                if server is leaves and calls[address] == 20:
                    asyncio.create_task(leaves.await_closed()).add_done_callback(
                        lambda _: gone.set()
                    )

            server.register(mark)

        counting(stays)
        counting(leaves)
        left = str(leaves.addresses[0])
        where = ("--registry", registry, "--service", "shop")
        args = ("bench", "mark", *where, "--rate", "200", "-d", "3", "--json")
        running = asyncio.create_task(invoke(None, *args))
        await gone.wait()
        found = json.loads((await running).stdout)
    shares = {each["address"]: each["calls"] for each in found["instances"]}
    assert (found["failed"], found["calls"]) == (0, 600)
    assert sum(shares.values()) >= 600  # a call that a leaving server refuses is made again
    assert shares[left] >= 19


async def test_a_rate_must_be_a_number_above_zero(server: Server) -> None:
    for rate in ("0", "inf", "nan", "fast"):
        result = await invoke(server, "bench", "add", "1", "--rate", rate)
        assert (result.stdout, result.exit_code) == ("", 2)


def test_on_a_terminal_a_bar_shows_the_progress_and_goes_away(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from rap.server import Server\nserver = Server('127.0.0.1:0')\n"
        "@server.register\nasync def add() -> int:\n    return 1\n"
    )
    with rap("serve", "plain:server", cwd=tmp_path) as server:
        address = line_with(server, "rap: listening on").split()[-1]
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", RUNNER, "bench", "add", "-d", "1", "--host", address],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "60"},
            text=True,
        ) as process:
            os.close(theirs)
            seen = b""
            with contextlib.suppress(OSError):  # the end of a terminal
                while more := os.read(ours, 4096):
                    seen += more
            assert process.stdout is not None
            assert "latency ms" in process.stdout.read()
            assert process.wait(PATIENCE) == 0
        os.close(ours)
    assert re.search(rb"\d+ calls, \d+ calls/s, 0 failed", seen)
    assert b"\x1b[2K" in seen  # the line of the bar is deleted
    assert b"Traceback" not in seen
