"""`rap ping`: round trips to each instance, and an exit status for lost answers."""

import asyncio
import json
import signal
from pathlib import Path

from tests.cli.programs import PATIENCE, interrupt, line_with, rap
from tests.cli.shop import invoke, shop
from tests.transport.certificates import Certificates

DEAD = "127.0.0.1:1"


async def test_each_host_is_pinged() -> None:
    async with shop() as one, shop() as two:
        other = str(two.addresses[0])
        result = await invoke(one, "ping", "-n", "3", "-i", "0", "--host", other)
        quiet = await invoke(one, "ping", "-n", "1", "-q")
    lines = result.stdout.splitlines()
    assert sum(line.startswith(f"{other}: ") and line.endswith(" ms") for line in lines) == 3
    assert lines[-3].split() == ["ADDRESS", "SENT", "LOST", *"MIN MS AVG MS P99 MS MAX MS".split()]
    assert {line.split()[0] for line in lines[-2:]} == {other, str(one.addresses[0])}
    assert all(line.split()[1:3] == ["3", "0"] for line in lines[-2:])
    assert len(quiet.stdout.splitlines()) == 2
    assert (result.exit_code, result.stderr) == (0, "")


async def test_an_instance_that_does_not_answer_fails_the_command() -> None:
    async with shop() as server:
        result = await invoke(server, "ping", "-n", "2", "-i", "0", "--host", DEAD, "--json")
    rows = {row["address"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 1
    assert (rows[DEAD]["sent"], rows[DEAD]["lost"]) == (2, 2)
    assert "cannot reach 127.0.0.1:1" in rows[DEAD]["error"]
    assert rows[DEAD]["min_ms"] is None
    good = rows[str(server.addresses[0])]
    assert (good["sent"], good["lost"], good["error"]) == (2, 0, None)
    assert 0 < good["min_ms"] <= good["avg_ms"] <= good["p99_ms"] <= good["max_ms"]


async def test_an_instance_that_accepts_connections_and_sends_nothing_is_lost() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        result = await invoke(
            None, "ping", "-n", "1", "--host", f"127.0.0.1:{port}", "--timeout", "0.1"
        )
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}: no answer: " in result.stdout


async def test_an_instance_that_the_options_exclude_does_not_hide_the_others(
    tmp_path: Path,
) -> None:
    """Whoever can write to the registry could otherwise make the command useless."""
    certificates = Certificates(tmp_path)
    own = certificates.server
    files = {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path}
    url = f"file://{tmp_path}/registry"
    unix = f"unix://{tmp_path}/s"
    where = ("--registry", url, "--service", "shop", "--ca", certificates.authority.crt_path)
    async with (
        shop(service="shop", registry=url, **files) as one,
        shop(host=unix, service="shop", registry=url),
    ):
        result = await invoke(None, "ping", "-n", "1", "--json", *where)
    rows = {row["address"]: row for row in json.loads(result.stdout)}
    assert rows[str(one.addresses[0])]["lost"] == 0
    assert rows[unix]["lost"] == 1
    assert "it has no TLS" in rows[unix]["error"]


async def test_all_instances_of_a_service_are_pinged(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    where = ("--registry", url, "--service", "shop")
    async with shop(service="shop", registry=url) as one, shop(service="shop", registry=url) as two:
        result = await invoke(None, "ping", "-n", "1", "--json", *where)
    addresses = {row["address"] for row in json.loads(result.stdout)}
    assert addresses == {str(one.addresses[0]), str(two.addresses[0])}
    result = await invoke(None, "ping", *where)
    assert "the registry lists no instance of the service shop" in result.stderr
    result = await invoke(None, "ping", "--registry", url)
    assert (result.exit_code, "--registry needs --service" in result.stderr) == (2, True)


async def test_a_client_without_a_valid_token_gets_the_reason() -> None:
    async with shop(verify_token="right") as server:
        result = await invoke(server, "ping", "-n", "1", "--token", "wrong")
    assert result.exit_code == 1
    assert "no answer" in result.stdout
    assert "wrong" not in result.output


def test_ctrl_c_ends_it_with_the_table(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from rap.server import Server\nserver = Server('127.0.0.1:0')\n"
    )
    with rap("serve", "plain:server", cwd=tmp_path) as server:
        address = line_with(server, "rap: listening on").split()[-1]
        with rap("ping", "-n", "0", "-i", "0.01", "--host", address, cwd=tmp_path) as process:
            line_with(process, " ms")
            interrupt(process)
            assert address in line_with(process, "  0  ")
            assert process.wait(PATIENCE) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
