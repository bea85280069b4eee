"""`rap bench`: every call is counted once, by error code and by instance."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rap.errors import CallError, Code
from rap.server import Server
from tests.cli.programs import PATIENCE, interrupt, line_with, rap
from tests.cli.shop import invoke, shop
from tests.loopback import serving


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
    assert lines[5].split() == ["ADDRESS", "CALLS", "SHARE"]
    assert lines[6].split() == [str(server.addresses[0]), "5", "100.0", "%"]
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
