"""The programs that documented release 0.5.3.8 run in exactly its spelling.

Only addresses are replaced. Fragments that declare functions get a server with these functions.
"""

import asyncio
import datetime
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rap.client import Client
from rap.server import Channel, Request, Server, context
from tests.loopback import PATIENCE, serving
from tests.seed_programs import (
    CHANNEL_CLIENT,
    CLIENT,
    EVENTS,
    PRINTED,
    REGISTERING_CLIENT,
    REGISTERING_SERVER,
    SERVER,
    SESSION_CLIENT,
    SSL_CLIENT,
    SSL_SERVER,
)

ROOT = Path(__file__).parents[1]
# A shell may start its background jobs deaf to Ctrl-C; a user's terminal does not.
RUNNER = (
    "import runpy, signal, sys; sys.path.insert(0, sys.argv[2]);"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)
# The server's program leaves its loop open; that is its own affair.
# They close neither their event loop nor their client.
IGNORED = ["ignore:unclosed event loop:ResourceWarning", "ignore:unclosed client:ResourceWarning"]
WARNINGS = ["-W", "error", *(part for each in IGNORED for part in ("-W", each))]


def at(program: str, address: str) -> str:
    """Return the program with an address given to its server or client."""
    return re.sub(r"\b(Server|Client)\((?=[^.])", rf"\1('{address}', ", program)


def declared(program: str, address: str) -> dict[str, Any]:
    """Run a program that only declares, without a loop; return what it declares."""
    names: dict[str, Any] = {}
    exec(compile(at(program, address), "program", "exec"), names)
    return names


def sync_sum(a: int, b: int) -> int:
    return a + b


async def async_sum(a: int, b: int) -> int:
    return a + b


async def async_gen(a: int) -> AsyncIterator[int]:
    for i in range(a):
        yield i


# The two programs that introduce rap, each a process of its own.


@contextmanager
def started(script: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a program as its user does."""
    with subprocess.Popen(
        [sys.executable, *WARNINGS, "-c", RUNNER, str(script), str(ROOT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_it_listens(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("localhost", port), 1.0).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return


def test_the_two_first_programs_run_and_exit_by_themselves(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
    server_script, client_script = tmp_path / "server.py", tmp_path / "client.py"
    server_script.write_text(at(SERVER, f"localhost:{port}"))
    client_script.write_text(at(CLIENT, f"localhost:{port}"))
    with started(server_script) as server:
        wait_until_it_listens(port)
        with started(client_script) as client:
            assert client.communicate(timeout=PATIENCE) == (PRINTED, "")
            assert client.returncode == 0
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=PATIENCE) == ("", "")
        assert server.returncode == 0


# Registration.


async def test_functions_are_registered_under_names_and_groups() -> None:
    server = declared(REGISTERING_SERVER, "localhost:0")["server"]
    async with server:
        names = declared(REGISTERING_CLIENT, str(server.addresses[0]))
        client = names["client"]
        await client.connect()
        assert await names["demo1"](1, 2) == 3
        assert [i async for i in names["demo_gen"](3)] == [0, 1, 2]
        results = await asyncio.gather(
            names["demo2"](1, 2),
            client.raw_call("demo2", 1, 2),
            client.raw_call("demo2-alias", 1, 2),
            client.raw_call("demo2", 1, 2, group="new-group"),
            client.raw_call("demo2", 1, 2, group="root"),
        )
        assert sum(results) == 15
        await client.await_close()


# Sessions.


async def test_sessions_work_implicitly_explicitly_and_by_execute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(sync_sum, async_sum, async_gen) as server:
        names = declared(SESSION_CLIENT, str(server.addresses[0]))
        await names["run_once"]()
    items = [f"async gen result:{i}" for i in range(10)]
    assert capsys.readouterr().out.splitlines() == [
        *("sync result: 3", "async result: 4", *items),
        *("sync result: 3", "sync result: 3", "async result: 4", *items),
        *("sync result: 3", "sync result: 3", "async result: 4", *items),
    ]


# Channels.


async def async_channel(channel: Channel) -> None:
    said = await channel.read_body()
    for i in range(3):
        await channel.write(f"{said} {i}")


async def echo(channel: Channel) -> None:
    for _ in range(2):
        await channel.write(await channel.read_body())
    await channel.read_body()


async def test_channels_read_and_write_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server("localhost:0")
    server.register(async_channel)
    server.register(echo, name="echo_body")
    server.register(echo, name="echo_response")
    async with server:
        names = declared(CHANNEL_CLIENT, str(server.addresses[0]))
        await names["client"].connect()
        await names["async_channel"]()
        assert capsys.readouterr().out == "hello 0\nhello 1\nhello 2\n"
        await names["echo_body"]()
        assert capsys.readouterr().out == "body:hi!\nbody:hi!\n"
        await names["echo_response"]()
        assert len(re.findall(r"^response: .*'hi!'", capsys.readouterr().out, re.M)) == 2
        await names["client"].await_close()


# TLS.


def write_certificate(folder: Path) -> None:
    """Write what `openssl req -newkey ... -x509` of the documentation writes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Widgits Pty Ltd")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "rap_ssl.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "rap_ssl.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def test_tls_takes_the_paths_of_certificate_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificate(tmp_path)
    monkeypatch.chdir(tmp_path)
    server = declared(SSL_SERVER, "localhost:0")["rpc_server"]
    server.register(sync_sum)
    async with server:
        address = server.addresses[0]
        assert address.scheme == "tls"
        client = declared(SSL_CLIENT, f"localhost:{address.port}")["client"]
        async with client:
            assert await client.raw_call("sync_sum", 1, 2) == 3


# Events.


async def test_events_may_be_coroutine_objects(capsys: pytest.CaptureFixture[str]) -> None:
    for program in (EVENTS, EVENTS.partition("# example 2")[0]):
        async with declared(program, "localhost:0")["server"]:
            assert capsys.readouterr().out == "start event\n"
        assert capsys.readouterr().out == "stop event\n"


# Paths of import.


async def test_a_handler_sees_its_request_where_the_documentation_says() -> None:
    async def who() -> list[str]:
        request: Request = context.request
        return [request.group, request.func_name]

    async with serving(who) as server, Client(str(server.addresses[0])) as client:
        assert await client.raw_call("who") == ["default", "who"]
