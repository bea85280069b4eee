"""A server that takes new certificates without a restart."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.errors import Unavailable
from rap.server import Server
from tests.loopback import eventually, serving
from tests.test_seed import write_certificate


async def fine() -> int:
    return 1


def options(folder: Path) -> dict[str, Any]:
    return {
        "ssl_crt_path": str(folder / "rap_ssl.crt"),
        "ssl_key_path": str(folder / "rap_ssl.key"),
    }


def copy_of_certificate(folder: Path, name: str) -> str:
    copy = folder / name
    copy.write_bytes((folder / "rap_ssl.crt").read_bytes())
    return str(copy)


async def accepted(server: Server, certificate: str) -> bool:
    """Whether a client that pins a certificate can call."""
    try:
        async with Client(server.addresses, ssl_crt_path=certificate, connect_timeout=2) as client:
            return bool(await client.raw_call("fine"))
    except Unavailable:
        return False


@pytest.mark.parametrize("how", ["method", "signal"])
async def test_new_handshakes_use_the_reloaded_files(tmp_path: Path, how: str) -> None:
    write_certificate(tmp_path)
    old = copy_of_certificate(tmp_path, "old.crt")
    server = Server("127.0.0.1:0", close_timeout=1, **options(tmp_path))
    server.register(fine)
    running = asyncio.create_task(server.serve_forever())
    await eventually(lambda: server.addresses)
    async with Client(server.addresses, ssl_crt_path=old) as before:
        write_certificate(tmp_path)
        new = copy_of_certificate(tmp_path, "new.crt")
        if how == "method":
            server.reload_certificates()
        else:
            os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            while not await accepted(server, new):
                assert how == "signal"  # which takes the loop a turn or two
        assert await before.raw_call("fine") == 1  # what is connected stays
    await server.await_closed()
    await running


async def test_bad_files_leave_the_old_certificate_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_certificate(tmp_path)
    old = copy_of_certificate(tmp_path, "old.crt")
    async with serving(fine, **options(tmp_path)) as server:
        (tmp_path / "rap_ssl.key").write_text("not a key")
        with pytest.raises(ValueError, match="ssl_key_path"):
            server.reload_certificates()
        server._on_hangup()
        assert "the certificates were not reloaded" in caplog.text
        assert await accepted(server, old)


async def test_a_server_without_tls_has_nothing_to_reload() -> None:
    async with serving(fine) as server:
        server.reload_certificates()


def test_a_tls_address_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="needs ssl_crt_path and ssl_key_path"):
        Server(["127.0.0.1:0", "tls://127.0.0.1:0"])
