"""What the log of a server says of TLS handshakes that fail."""

import asyncio
import logging
import socket
from functools import partial
from typing import Any

import pytest

from faults.raw import speaking
from rap.client import Client
from rap.clock import Pace
from rap.errors import Unavailable
from rap.server import Server
from tests.loopback import eventually, serving
from tests.transport.certificates import Certificates

ON_BOTH_LOOPS = True


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def fine() -> int:
    return 1


def mutual(certificates: Certificates) -> dict[str, Any]:
    return {
        "ssl_crt_path": certificates.server.crt_path,
        "ssl_key_path": certificates.server.key_path,
        "ssl_ca_path": certificates.authority.crt_path,
    }


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "rap.server" and record.levelno == logging.WARNING
    ]


async def refused(server: Server, **options: Any) -> str:
    with pytest.raises(Unavailable) as caught:
        async with Client(server.addresses, connect_timeout=0.2, **options):
            pass
    return str(caught.value)


async def test_the_log_says_that_a_client_sent_no_certificate(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fine, **mutual(certificates)) as server:
        why = await refused(server, ssl_ca_path=certificates.authority.crt_path)
        assert "Its log says why" in why
        await eventually(lambda: lines(caplog))
    assert "failed: the client sent no certificate; give it ssl_client_crt_path" in lines(caplog)[0]


async def test_the_log_says_why_the_certificate_of_a_client_is_refused(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fine, **mutual(certificates)) as server:
        await refused(
            server,
            ssl_ca_path=certificates.authority.crt_path,
            ssl_client_crt_path=certificates.stranger.crt_path,
            ssl_client_key_path=certificates.stranger.key_path,
        )
        await eventually(lambda: lines(caplog))
    assert "unable to get local issuer certificate (options ssl_ca_path" in lines(caplog)[0]


async def test_the_log_says_that_a_client_does_not_speak_tls(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fine, **mutual(certificates)) as server:
        port = server.addresses[0].port
        with pytest.raises(Unavailable, match="does it speak TLS"):
            async with Client(f"127.0.0.1:{port}", connect_timeout=0.2):
                pass
        await eventually(lambda: lines(caplog))
    assert "failed: the client does not speak TLS; give it ssl_ca_path" in lines(caplog)[0]


async def test_many_failed_handshakes_are_one_line_with_their_number(
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("rap.transport.listen.Pace", lambda pause, _: Pace(pause, lambda: now))
    async with serving(fine, **mutual(certificates)) as server:

        async def talk_http() -> None:
            async with speaking(server.addresses[0].port, b"GET / HTTP/1.1\r\n\r\n") as peer:
                await peer.closed()

        for _ in range(20):
            await talk_http()
        await eventually(lambda: server.connection_manager.accept_limiter.pending == 0)
        assert len(lines(caplog)) == 1
        now = 11.0
        await talk_http()
        await eventually(lambda: len(lines(caplog)) == 2)
    assert "(19 more have failed since the last such line)" in lines(caplog)[1]


async def test_who_only_looks_whether_the_port_is_open_causes_no_warning(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rap.server")
    async with serving(fine, **mutual(certificates)) as server:
        socket.create_connection(("127.0.0.1", server.addresses[0].port)).close()
        limiter = server.connection_manager.accept_limiter
        await eventually(lambda: "TLS handshake" in caplog.text)
        await eventually(lambda: limiter.pending == 0)
    assert lines(caplog) == []
    assert "failed: \n" not in caplog.text


async def test_the_log_of_a_client_says_why_while_connect_still_waits(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    def is_logged(text: str) -> bool:
        return text in caplog.text

    async with serving(fine, **mutual(certificates)) as server:
        for trust in (None, certificates.authority.crt_path):
            host = server.addresses[0] if trust else f"127.0.0.1:{server.addresses[0].port}"
            caplog.clear()
            client = Client(str(host), connect_timeout=60.0, ssl_ca_path=trust)
            connecting = asyncio.create_task(client.connect())
            asked = "want a client certificate?" if trust else "speak TLS?"
            told = f"or does it {asked} Its log says why; it is dialled"
            await eventually(partial(is_logged, told))
            assert not connecting.done()
            connecting.cancel()
            await asyncio.wait([connecting])
            await client.await_close()
