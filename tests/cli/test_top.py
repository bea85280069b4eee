"""`rap top`: the table of instances, once or until Ctrl-C."""

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rap.cli.commands.top import InstanceMonitor, _plain, _shown, _table
from rap.cli.remote import Remote
from rap.client import Client
from rap.registry import registry_from_url
from rap.server import Server
from rap.wire.codec import pack
from rap.wire.frames import LOAD, Frame
from tests.cli.programs import PATIENCE, ROOT, RUNNER, interrupt, line_with, rap
from tests.cli.shop import invoke, shop
from tests.fault_proxy import Fate, FaultProxy
from tests.loopback import eventually, serving, until


def remote(**options: Any) -> Remote:
    defaults: dict[str, Any] = dict.fromkeys(each.name for each in fields(Remote))
    defaults |= {"host": (), "identity": (), "token_without_tls": False, "wait": False}
    return Remote(**{**defaults, **options})


def address_of(server: Server) -> str:
    return str(server.addresses[0])


async def rows_of(*args: str) -> dict[str, dict[str, Any]]:
    result = await invoke(None, "top", "--once", "--json", "-i", "0.2", *args)
    assert (result.stderr, result.exit_code) == ("", 0)
    return {row["address"]: row for row in json.loads(result.stdout)}


async def test_load_is_from_instances_and_weight_and_zone_from_the_registry() -> None:
    url = "memory://top-load"
    hold = asyncio.Event()

    async def wait() -> None:
        await hold.wait()

    options = {"service": "shop", "registry": url, "drain_delay": 0}
    async with (
        serving(wait, weight=2, zone="a", **options) as busy,
        shop(**options) as idle,
        Client(busy.addresses) as client,
    ):
        calls = [asyncio.create_task(client.raw_call("wait")) for _ in range(3)]
        await eventually(lambda: len(next(iter(busy.connection_manager.connections)).streams) == 3)
        rows = await rows_of("--registry", url, "--service", "shop")
        hold.set()
        await asyncio.gather(*calls)
    row = rows[address_of(busy)]
    assert (row["state"], row["weight"], row["zone"]) == ("up", 2, "a")
    assert (row["in_flight"], row["clients"], row["error"]) == (3, 1, None)
    assert row["ping_ms"] > 0
    assert (rows[address_of(idle)]["in_flight"], rows[address_of(idle)]["clients"]) == (0, 0)


async def test_empty_columns_are_left_out() -> None:
    async with shop() as server:
        result = await invoke(server, "top", "--once", "-i", "0.2")
    head, row = result.stdout.splitlines()
    assert head.split("  ")[0] == "ADDRESS"
    assert "IN FLIGHT" in head
    assert "CALLS/S" in head
    assert not re.search("WEIGHT|ZONE|ERROR", head)
    assert row.split()[:3] == [address_of(server), "up", "0"]


async def test_silent_and_draining_instances_are_shown_as_such() -> None:
    async with shop() as server, shop() as leaving:
        await leaving.set_serving(False)
        hosts = [address_of(leaving), "127.0.0.1:1"]
        rows = await rows_of(*(f"--host={each}" for each in [address_of(server), *hosts]))
    assert [rows[each]["state"] for each in hosts] == ["draining", "silent"]
    assert "cannot reach" in rows["127.0.0.1:1"]["error"]
    assert rows[hosts[0]]["error"] is None
    assert rows[address_of(server)]["state"] == "up"


async def test_an_instance_that_is_silent_on_an_open_connection_is_suspect() -> None:
    async with shop() as server, FaultProxy(server.addresses[0].port) as proxy:
        where = remote(host=(f"127.0.0.1:{proxy.port}",), timeout=2.0)
        async with InstanceMonitor(where) as monitor:
            (row,) = await monitor.measure()
            assert row["state"] == "up"
            proxy.judge = lambda _: Fate.SWALLOW
            (row,) = await monitor.measure()
    assert row["state"] == "suspect"
    assert re.match(r"it has sent nothing for [\d.]+ s, and answers no ping$", row["error"])


async def test_instances_come_and_go(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"

    async def seen(monitor: InstanceMonitor, count: int) -> None:
        async def is_so() -> bool:
            return len(await monitor.measure()) == count

        await until(is_so)

    async with asyncio.timeout(PATIENCE), shop(service="shop", registry=url):
        async with InstanceMonitor(remote(registry=url, service="shop")) as monitor:
            await seen(monitor, 1)
            async with shop(service="shop", registry=url):
                await seen(monitor, 2)
            await seen(monitor, 1)


async def with_rate(monitor: InstanceMonitor) -> dict[str, Any]:
    """Return the row of the only instance when there is a rate for it."""

    async def measured() -> dict[str, Any]:
        (row,) = await monitor.measure()
        return {} if row["calls_s"] is None else row

    return await until(measured)


@pytest.mark.parametrize("scheme", ["memory", "file", "static", "host"])
async def test_calls_per_second_are_shown_whatever_the_registry(
    scheme: str, tmp_path: Path
) -> None:
    urls = {"file": f"file://{tmp_path}"}
    registered: dict[str, Any] = {
        "service": "shop",
        "registry": urls.get(scheme, "memory://top-rates"),
    }
    async with shop(**registered) as server, Client(server.addresses) as client:
        where: dict[str, dict[str, Any]] = {
            "static": {"service": "shop", "registry": f"static://{address_of(server)}"},
            "host": {"host": (address_of(server),)},
        }
        async with InstanceMonitor(remote(**where.get(scheme, registered))) as monitor:
            (first,) = await monitor.measure()
            idle = await with_rate(monitor)
            for _ in range(20):
                await client.raw_call("add", 1)
            busy = await with_rate(monitor)
    assert first["calls_s"] is None
    assert idle["calls_s"] == 0.0
    assert busy["calls_s"] > 0


async def test_the_rate_of_an_older_server_is_what_it_has_reported_to_its_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "rap.server.load_report.load_frame",
        lambda load: Frame(LOAD, 0, 0, b"", pack({"in_flight": load.in_flight})).encode(),
    )
    url = "memory://top-older"
    async with shop(service="shop", registry=url) as server:
        registry: Any = registry_from_url(url)
        registry.report_load("shop", address_of(server), {"rps": 12.5})
        async with InstanceMonitor(remote(registry=url, service="shop")) as monitor:
            for _ in range(2):
                (row,) = await monitor.measure()
                assert row["calls_s"] == 12.5


async def test_a_server_that_has_restarted_has_no_rate_until_the_next_measurement() -> None:
    async with shop() as server, Client(server.addresses) as client:
        for _ in range(9):
            await client.raw_call("add", 1)
        where = remote(host=(address_of(server),))
        async with InstanceMonitor(where) as monitor:
            await monitor.measure()
            await server.await_closed()
            host = address_of(server)
            async with serving(host=host):

                async def is_up() -> bool:
                    (row,) = await monitor.measure()
                    assert row["calls_s"] is None or row["state"] != "up"
                    return str(row["state"]) == "up"

                await until(is_up)
                assert (await with_rate(monitor))["calls_s"] == 0.0


async def test_the_table_of_a_terminal_has_the_same_columns() -> None:
    async with shop(service="shop", registry="memory://top-table"):
        async with InstanceMonitor(
            remote(registry="memory://top-table", service="shop")
        ) as monitor:
            table = _table(_shown(await monitor.measure()))
    titles = [str(column.header) for column in table.columns]
    assert titles[:4] == ["address", "state", "weight", "in flight"]
    assert table.row_count == 1


async def test_a_service_without_instances_is_reported(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    async with shop(service="shop", registry=url):
        result = await invoke(
            None, "top", "--once", "-i", "0.2", "--registry", url, "--service", "shpo"
        )
    assert (result.stdout, result.exit_code) == ("", 0)
    assert result.stderr == "the registry lists no instance of the service shpo; it lists shop\n"


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_it_runs_until_ctrl_c(tmp_path: Path, form: tuple[str, ...]) -> None:
    (tmp_path / "plain.py").write_text(
        "from rap.server import Server\nserver = Server('127.0.0.1:0')\n"
    )
    with rap("serve", "plain:server", cwd=tmp_path) as server:
        address = line_with(server, "rap: listening on").split()[-1]
        with rap("top", "-i", "0.2", "--host", address, *form, cwd=tmp_path) as process:
            assert "up" in line_with(process, address)
            assert "up" in line_with(process, address)
            interrupt(process)
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("args", "said", "status"),
    [
        (["--registry", "memory://"], "--registry needs --service", 2),
        (["-i", "0.1"], "0.1 is not in the range x>=0.2", 2),
        (
            ["--registry", "redis://127.0.0.1:1", "--service", "s", "--timeout", "0.1"],
            "the registry did not answer in 0.1 s",
            1,
        ),
    ],
)
async def test_an_impossible_request_is_named(args: list[str], said: str, status: int) -> None:
    result = await invoke(None, "top", "--once", *args)
    assert said in result.stderr
    assert (result.stderr.count("\n"), result.exit_code) == (1, status)


def test_on_a_terminal_the_table_is_updated_in_place(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from rap.server import Server\nserver = Server('127.0.0.1:0')\n"
    )
    with rap("serve", "plain:server", cwd=tmp_path) as server:
        address = line_with(server, "rap: listening on").split()[-1]
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", RUNNER, "top", "-i", "0.2", "--host", address],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        ) as process:
            os.close(theirs)
            seen = b""
            while seen.count(address.encode()) < 2:
                seen += os.read(ours, 4096)
            interrupt(process)
            with contextlib.suppress(OSError):  # the end of a terminal
                while more := os.read(ours, 4096):
                    seen += more
            assert process.wait(PATIENCE) == 0
        os.close(ours)
    assert b"\x1b[" in seen
    assert b"Traceback" not in seen


def test_a_message_is_text_and_not_markup() -> None:
    assert _plain("[link=http://a]calc[/link]").plain == "[link=http://a]calc[/link]"
