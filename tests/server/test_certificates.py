"""A server that takes new certificates, authorities and revocation lists without a restart."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.errors import Unavailable
from rap.server import Server
from tests.loopback import eventually, serving
from tests.test_seed import write_certificate
from tests.transport.certificates import Certificates

ON_BOTH_LOOPS = True
TLS_VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


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


class Mutual:
    """The files of a server that demands client certificates; they can be replaced."""

    def __init__(self, certificates: Certificates, folder: Path, *, crl: bool = False) -> None:
        self.certificates = certificates
        self.ca, self.crl = folder / "ca.crt", folder / "revoked.crl"
        self.options: dict[str, Any] = {
            "ssl_crt_path": certificates.server.crt_path,
            "ssl_key_path": certificates.server.key_path,
            "ssl_ca_path": str(self.ca),
        }
        self.trust(certificates.authority)
        if crl:
            self.options["ssl_crl_path"] = str(self.crl)
            self.revoke()

    def trust(self, authority: Any) -> None:
        shutil.copy(authority.crt_path, self.ca)

    def revoke(self, *pairs: Any) -> None:
        shutil.copy(self.certificates.revoke(*pairs), self.crl)

    def spoil(self, option: str) -> None:
        Path(self.options[option]).write_text("broken")

    def client(self, server: Server, own: Any) -> Client:
        return Client(
            server.addresses,
            ssl_ca_path=self.certificates.authority.crt_path,
            ssl_client_crt_path=own.crt_path,
            ssl_client_key_path=own.key_path,
        )

    async def accepts(self, server: Server, own: Any) -> bool:
        client = self.client(server, own)
        try:
            return bool(await client.raw_call("fine", wait_for_ready=False))
        except Unavailable:
            return False
        finally:
            await client.close()


@pytest.fixture
def mutual(certificates: Certificates, tmp_path: Path) -> Mutual:
    return Mutual(certificates, tmp_path)


@pytest.mark.parametrize("how", ["method", "signal"])
async def test_an_authority_that_was_withdrawn_is_trusted_no_longer(
    certificates: Certificates, mutual: Mutual, how: str
) -> None:
    async with serving(fine, **mutual.options) as server:
        assert await mutual.accepts(server, certificates.client)
        assert not await mutual.accepts(server, certificates.stranger)
        async with mutual.client(server, certificates.client) as before:
            mutual.trust(certificates.other_authority)
            if how == "method":
                server.reload_certificates()
            else:
                server._on_hangup()
            assert not await mutual.accepts(server, certificates.client)
            assert await mutual.accepts(server, certificates.stranger)
            assert await before.raw_call("fine") == 1  # what is connected stays, until it is ended
            assert server.revoke(lambda peer: True) >= 1
            await eventually(lambda: not server.connection_manager.connections)


class RawClient:
    """Speaks TLS to a server, and resumes sessions."""

    def __init__(self, server: Server, certificates: Certificates, version: ssl.TLSVersion) -> None:
        self._address = server.addresses[0]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(certificates.authority.crt_path)
        mine = certificates.client
        self._context.load_cert_chain(mine.crt_path, mine.key_path)
        self._context.minimum_version = self._context.maximum_version = version
        self.session: ssl.SSLSession | None = None

    async def is_admitted(self) -> bool:
        """Whether the server says Hello; keep the session, to resume it in the next connection."""
        return await asyncio.to_thread(self._is_admitted)

    def _is_admitted(self) -> bool:
        sock = socket.create_connection((self._address.host, self._address.port), timeout=10)
        try:
            with self._context.wrap_socket(
                sock, server_hostname=self._address.host, session=self.session
            ) as tls:
                if not tls.recv(65536):
                    return False
                self.session = tls.session
                tls.unwrap()  # a session that is not ended in order cannot be resumed
                return True
        except OSError:
            return False


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_session_from_before_the_reload_is_not_resumed(
    certificates: Certificates, mutual: Mutual, version: ssl.TLSVersion
) -> None:
    async with serving(fine, **mutual.options) as server:
        raw = RawClient(server, certificates, version)
        assert await raw.is_admitted()
        mutual.trust(certificates.other_authority)
        server.reload_certificates()
        assert not await raw.is_admitted()


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_resumed_session_is_no_proof_of_a_client_certificate(
    certificates: Certificates, mutual: Mutual, version: ssl.TLSVersion
) -> None:
    """In a session, a certificate would stay good that has expired or was revoked since."""
    async with serving(fine, **mutual.options) as server:
        raw = RawClient(server, certificates, version)
        assert await raw.is_admitted()
        assert raw.session is not None
        assert not raw.session.has_ticket
        if version is ssl.TLSVersion.TLSv1_3:
            return  # without a ticket, there is nothing to resume
        assert not await raw.is_admitted()
        raw.session = None
        assert await raw.is_admitted()


async def test_a_revoked_client_certificate_is_refused_from_the_reload_on(
    certificates: Certificates, tmp_path: Path
) -> None:
    mutual = Mutual(certificates, tmp_path, crl=True)
    async with serving(fine, **mutual.options) as server:
        assert await mutual.accepts(server, certificates.client)
        mutual.revoke(certificates.client)
        server.reload_certificates()
        assert not await mutual.accepts(server, certificates.client)
        mutual.revoke()
        server.reload_certificates()
        assert await mutual.accepts(server, certificates.client)


async def test_without_the_list_of_their_authority_clients_are_refused(
    certificates: Certificates, tmp_path: Path
) -> None:
    mutual = Mutual(certificates, tmp_path, crl=True)
    for path in (
        certificates.revoke_by(certificates.other_authority),
        certificates.revoke(days=-1),  # it has expired
    ):
        shutil.copy(path, mutual.crl)
        async with serving(fine, **mutual.options) as server:
            assert not await mutual.accepts(server, certificates.client)


@pytest.mark.parametrize("name", ["ssl_crt_path", "ssl_key_path", "ssl_ca_path", "ssl_crl_path"])
async def test_a_file_that_cannot_be_used_leaves_all_old_ones_in_use(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    mutual = Mutual(certificates, tmp_path, crl=True)
    for option in ("ssl_crt_path", "ssl_key_path"):
        copy = tmp_path / option
        shutil.copy(mutual.options[option], copy)
        mutual.options[option] = str(copy)
    async with serving(fine, **mutual.options) as server:
        mutual.revoke(certificates.client)  # this list is good, and not used
        mutual.spoil(name)
        with pytest.raises(ValueError, match=name):
            server.reload_certificates()
        server._on_hangup()
        assert "the certificates were not reloaded" in caplog.text
        assert name in caplog.text
        assert await mutual.accepts(server, certificates.client)


async def test_a_reload_is_logged_with_the_files_and_the_end_of_the_certificate(
    certificates: Certificates, mutual: Mutual, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rap.server")
    async with serving(fine, **mutual.options) as server:
        server.reload_certificates()
        (line,) = [text for text in caplog.messages if "reloaded TLS files" in text]
        assert f"ssl_ca_path={mutual.ca}" in line
        assert f"ssl_crt_path={certificates.server.crt_path}" in line
        assert "; valid until 20" in line


def test_a_revocation_list_needs_the_authorities(certificates: Certificates) -> None:
    own, crl = certificates.server, certificates.revoke()
    with pytest.raises(ValueError, match="ssl_crl_path needs ssl_ca_path"):
        Server(
            "127.0.0.1:0", ssl_crt_path=own.crt_path, ssl_key_path=own.key_path, ssl_crl_path=crl
        )
    with pytest.raises(ValueError, match="ssl_crl_path needs ssl_crt_path and ssl_key_path"):
        Server("127.0.0.1:0", ssl_crl_path=crl)


@pytest.mark.parametrize(
    ("holds", "error"),
    [
        ("nothing", "holds no usable revocation list"),
        ("a certificate", "holds no revocation list"),
        ("both", "holds a certificate; it belongs in ssl_ca_path"),
    ],
)
def test_a_file_of_revocation_lists_trusts_nobody_more(
    certificates: Certificates, mutual: Mutual, holds: str, error: str
) -> None:
    other = Path(certificates.other_authority.crt_path).read_text()
    content = {
        "nothing": "",
        "a certificate": other,
        "both": Path(certificates.revoke()).read_text() + other,
    }
    mutual.crl.write_text(content[holds])
    with pytest.raises(ValueError, match=f"ssl_crl_path: .*{error}"):
        Server("127.0.0.1:0", ssl_crl_path=str(mutual.crl), **mutual.options)


async def test_a_server_without_tls_has_nothing_to_reload() -> None:
    async with serving(fine) as server:
        server.reload_certificates()


def test_a_tls_address_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="needs ssl_crt_path and ssl_key_path"):
        Server(["127.0.0.1:0", "tls://127.0.0.1:0"])
