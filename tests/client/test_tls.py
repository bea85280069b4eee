"""What a client with TLS sends to whom, and with which files."""

import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from rap.address import Address, Peer
from rap.client import Client
from rap.client.stats import client_status
from rap.client.sync import SyncClient
from rap.errors import Unauthenticated, Unavailable
from rap.registry import Endpoint, MemoryRegistry
from rap.server import Server
from rap.server.registration import route_address
from rap.transport.tls import server_context
from tests.loopback import eventually, serving
from tests.transport.certificates import Certificates
from tests.transport.recorder import recording

ON_BOTH_LOOPS = True
TOKEN = "a secret that others must not see"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def fine() -> int:
    return 1


def files_of(own: Any) -> dict[str, Any]:
    return {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path}


async def refusal(client: Client, error: type[Exception] = Unavailable) -> str:
    """Return why a client cannot call."""
    try:
        with pytest.raises(error) as caught:
            await client.raw_call("fine", TOKEN, wait_for_ready=False)
        return str(caught.value)
    finally:
        await client.close()


async def works(client: Client) -> bool:
    async with client:
        return bool(await client.raw_call("fine") == 1)


@asynccontextmanager
async def listing(*addresses: str | Address) -> AsyncIterator[MemoryRegistry]:
    """A registry that lists servers, as anyone can write who can write to it."""
    registry = MemoryRegistry()
    for each in addresses:
        endpoint = Endpoint(str(each), Address.parse(each))
        await registry.register("calc", endpoint, ttl=60)
    yield registry


def tls_options(certificates: Certificates) -> list[dict[str, Any]]:
    mine, ca = certificates.client, certificates.authority.crt_path
    return [
        {"ssl_ca_path": ca},
        {"ssl_crt_path": certificates.server.crt_path},
        {"ssl_client_crt_path": mine.crt_path, "ssl_client_key_path": mine.key_path},
        {"ssl_server_name": "calc.example"},
        {"ssl_identity": "DNS:calc.example"},
        {"ssl_ca_path": ca, "ssl_crl_path": certificates.revoke()},
    ]


# A client with TLS options never speaks without TLS.


@pytest.mark.parametrize("number", range(6))
async def test_a_registry_cannot_take_tls_away_by_a_unix_socket(
    certificates: Certificates, tmp_path: Path, number: int
) -> None:
    options = tls_options(certificates)[number]
    with recording(path=tmp_path / "s") as recorder:
        async with listing(recorder.address) as registry:
            client = Client(service="calc", registry=registry, token=TOKEN, **options)
            why = await refusal(client)
            assert f"{recorder.address} (connecting: cannot reach it: it has no TLS" in why
            assert "ssl_ options" in why
        assert (recorder.ended, recorder.received) == (0, b"")


@pytest.mark.parametrize("number", range(6))
async def test_a_registry_cannot_take_tls_away_by_an_address_without_scheme(
    certificates: Certificates, number: int
) -> None:
    options = tls_options(certificates)[number]
    with recording(hangs_up=True) as recorder:
        async with listing(f"{recorder.address}") as registry:
            await refusal(Client(service="calc", registry=registry, token=TOKEN, **options))
        await eventually(lambda: recorder.ended)
        assert b"rap" not in recorder.received
        assert TOKEN.encode() not in recorder.received
        assert recorder.received[:1] == b"\x16"  # a TLS handshake, whose answer never came


def test_an_address_without_tls_and_options_of_tls_exclude_each_other(
    certificates: Certificates,
) -> None:
    for number, options in enumerate(tls_options(certificates)):
        with pytest.raises(ValueError, match="host_list: unix:///run/s has no TLS") as caught:
            Client(["tls://localhost:9000", "unix:///run/s"], **options)
        assert next(iter(options)) in str(caught.value), number


# Whom a client expects is checked before it says anything.


async def test_no_token_goes_to_a_server_without_the_pinned_certificate(
    certificates: Certificates,
) -> None:
    """Its certificate is signed by the pinned one, so TLS alone accepts it."""
    own, pin = certificates.second_server, certificates.authority.crt_path
    with recording(server_context(own.crt_path, own.key_path)) as recorder:
        client = Client(recorder.address, ssl_crt_path=pin, token=TOKEN)
        assert "not the pinned one" in await refusal(client)
        await eventually(lambda: recorder.ended)
        assert recorder.received == b""


async def test_the_host_in_an_address_can_be_replaced_by_a_name(
    certificates: Certificates,
) -> None:
    ca, own = certificates.authority.crt_path, files_of(certificates.elsewhere)
    async with serving(fine, **own) as server:
        assert await works(
            Client(server.addresses, ssl_ca_path=ca, ssl_server_name="elsewhere.example")
        )
        why = await refusal(Client(server.addresses, ssl_ca_path=ca))
        assert "not valid for '127.0.0.1'" in why
        why = await refusal(Client(server.addresses, ssl_ca_path=ca, ssl_server_name="localhost"))
        assert "not valid for 'localhost'" in why


async def test_a_common_name_is_not_the_name_of_a_server(certificates: Certificates) -> None:
    """An authority may let its clients choose common names."""
    own = certificates.issue("localhost", x509.DNSName("other.example"))
    with recording(server_context(own.crt_path, own.key_path)) as recorder:
        host = f"localhost:{recorder.address.port}"
        await refusal(Client(host, ssl_ca_path=certificates.authority.crt_path, token=TOKEN))
        assert recorder.received == b""


@pytest.mark.parametrize(
    ("names", "identity", "accepted"),
    [
        (["URI:spiffe://prod/calc"], "URI:spiffe://prod/calc", True),
        (["URI:spiffe://prod/calc"], "URI:spiffe://prod/*", True),
        (["URI:spiffe://prod/calc"], ["URI:spiffe://prod/shop", "URI:spiffe://prod/calc"], True),
        (["DNS:a.example", "URI:spiffe://prod/calc"], "URI:spiffe://prod/calc", True),
        (["DNS:a.calc.example"], "DNS:*.calc.example", True),
        (["DNS:A.Calc.Example"], "DNS:a.calc.example", True),
        (["URI:spiffe://prod/shop"], "URI:spiffe://prod/calc", False),
        (["URI:spiffe://prod/Calc"], "URI:spiffe://prod/calc", False),
        (["URI:spiffe://prod/calc/x"], "URI:spiffe://prod/*", False),
        (["URI:spiffe://prod/"], "URI:spiffe://prod/*", False),
        (["URI:spiffe://prod/calc/x"], "URI:spiffe://prod/calc", False),
        (["DNS:a.b.calc.example"], "DNS:*.calc.example", False),
        (["DNS:calc.example"], "DNS:*.calc.example", False),
        (["DNS:calc.example.evil.example"], "DNS:calc.example", False),
        (["DNS:calcXexample"], "DNS:calc.example", False),
        (["URI:x://DNS:calc.example"], "DNS:calc.example", False),
        (["DNS:localhost", "IP:127.0.0.1"], "DNS:calc.example", False),
    ],
)
async def test_servers_have_the_identity_that_is_expected_of_the_service(
    certificates: Certificates, names: list[str], identity: Any, accepted: bool
) -> None:
    """Another holder of a certificate of the same authority is not the service."""
    made: dict[str, Any] = {"DNS": x509.DNSName, "URI": x509.UniformResourceIdentifier}
    pairs = [each.split(":", 1) for each in names if not each.startswith("IP:")]
    own = certificates.issue("of a service", *(made[kind](value) for kind, value in pairs))
    options: dict[str, Any] = {"ssl_ca_path": certificates.authority.crt_path}
    if accepted:
        async with serving(fine, **files_of(own)) as server:
            assert await works(Client(server.addresses, ssl_identity=identity, **options))
        return
    with recording(server_context(own.crt_path, own.key_path)) as recorder:
        async with listing(recorder.address) as registry:
            client = Client(
                service="calc", registry=registry, ssl_identity=identity, token=TOKEN, **options
            )
            why = await refusal(client)
            assert "its certificate has " in why
            assert f"not {identity}" in why
            assert "option ssl_identity" in why
        await eventually(lambda: recorder.ended)
        assert recorder.received == b""


async def test_an_identity_needs_a_chain_to_the_authority(certificates: Certificates) -> None:
    own = certificates.self_signed  # it has the name
    with recording(server_context(own.crt_path, own.key_path)) as recorder:
        client = Client(
            recorder.address,
            ssl_ca_path=certificates.authority.crt_path,
            ssl_identity="DNS:localhost",
            token=TOKEN,
        )
        assert "its certificate is refused" in await refusal(client)
        assert recorder.received == b""


async def test_a_name_and_an_identity_are_both_checked(certificates: Certificates) -> None:
    own = certificates.issue(
        "both", x509.DNSName("a.example"), x509.UniformResourceIdentifier("spiffe://prod/calc")
    )
    ca = certificates.authority.crt_path
    async with serving(fine, **files_of(own)) as server:
        for name, identity, accepted in (
            ("a.example", "URI:spiffe://prod/calc", True),
            ("b.example", "URI:spiffe://prod/calc", False),
            ("a.example", "URI:spiffe://prod/shop", False),
        ):
            client = Client(
                server.addresses, ssl_ca_path=ca, ssl_server_name=name, ssl_identity=identity
            )
            if accepted:
                assert await works(client)
            else:
                await refusal(client)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ssl_identity": ""}, "ssl_identity must be DNS: and a host name"),
        ({"ssl_identity": "calc.example"}, "ssl_identity must be DNS: and a host name"),
        ({"ssl_identity": "CN:calc"}, "ssl_identity must be DNS: and a host name"),
        ({"ssl_identity": "DNS:"}, "ssl_identity must be DNS: and a host name"),
        ({"ssl_identity": "URI:calc"}, "ssl_identity must be DNS: and a host name"),
        ({"ssl_identity": []}, "ssl_identity must be a pattern or a list"),
        ({"ssl_identity": [b"DNS:x"]}, "ssl_identity must be DNS: and a host name"),
        ({"ssl_identity": 1}, "ssl_identity must be a pattern or a list"),
        ({"ssl_server_name": ""}, "ssl_server_name must be a host name"),
        ({"ssl_server_name": "a b"}, "ssl_server_name must be a host name"),
        ({"ssl_crl_path": "x.crl"}, "ssl_crl_path needs ssl_ca_path"),
        ({"ssl_crl_path": ""}, "ssl_crl_path must be the path"),
        ({"ssl_crt_path": "x", "ssl_identity": "DNS:x"}, "give ssl_crt_path .* or ssl_identity"),
    ],
)
def test_options_that_would_check_nothing_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Client("localhost:9000", **options)


# Tokens.


@pytest.fixture
async def far(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of this machine that is not a loopback address, or counts as none."""
    host = await route_address("0.0.0.0", None)
    if Address("tcp", host).is_loopback:
        monkeypatch.setattr(Peer, "from_sockname", lambda *_: Peer("192.0.2.9", 4000))
    return host


async def test_a_token_is_not_sent_to_another_machine_without_tls(far: str) -> None:
    with recording(host=far) as recorder:
        why = await refusal(Client(recorder.address, token=TOKEN), Unauthenticated)
        assert why.startswith("the token is not sent to ")
        assert "options ssl_ca_path, token_without_tls" in why
        assert TOKEN not in why
        await eventually(lambda: recorder.ended)
        assert recorder.received == b""


async def test_a_token_is_sent_to_another_machine_without_tls_if_an_option_says_so(
    far: str,
) -> None:
    async with serving(fine, host=f"{far}:0", verify_token=TOKEN) as server:
        assert await works(Client(server.addresses, token=TOKEN, token_without_tls=True))


async def test_a_token_is_sent_over_tls_and_to_this_machine(
    certificates: Certificates, far: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"verify_token": TOKEN}
    ca = certificates.authority.crt_path
    async with serving(fine, host=f"{far}:0", **files_of(certificates.server), **options) as tls:
        assert await works(
            Client(tls.addresses, token=TOKEN, ssl_ca_path=ca, ssl_server_name="localhost")
        )
    async with serving(fine, host=f"unix://{tmp_path}/s", **options) as unix:
        assert await works(Client(unix.addresses, token=TOKEN))


async def test_a_token_is_sent_to_a_loopback_address() -> None:
    async with serving(fine, verify_token=TOKEN) as server:
        assert await works(Client(server.addresses, token=TOKEN))
        assert await works(Client(f"localhost:{server.addresses[0].port}", token=TOKEN))


# The files of a client.


class Files:
    """The files of a client, which can be replaced."""

    def __init__(self, certificates: Certificates, folder: Path) -> None:
        self.ca, self.crt, self.key = folder / "ca.crt", folder / "own.crt", folder / "own.key"
        self.pin, self.crl = folder / "pin.crt", folder / "revoked.crl"
        self.trust(certificates.authority)
        self.use(certificates.client)

    def trust(self, authority: Any) -> None:
        shutil.copy(authority.crt_path, self.ca)

    def use(self, own: Any) -> None:
        shutil.copy(own.crt_path, self.crt)
        shutil.copy(own.key_path, self.key)

    def client(self, server: Server | None = None, **options: Any) -> Client:
        return Client(
            None if server is None else server.addresses,
            ssl_ca_path=str(self.ca),
            ssl_client_crt_path=str(self.crt),
            ssl_client_key_path=str(self.key),
            **options,
        )


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> Files:
    return Files(certificates, tmp_path)


async def dialled(client: Client) -> str:
    """Let a client connect once more; return why it cannot, or an empty text."""
    await client.open()
    try:
        await client.raw_call("fine", wait_for_ready=False)
    except Unavailable as exc:
        return str(exc)
    finally:
        await client.close()
    return ""


async def test_new_connections_use_the_files_as_they_are_now(
    certificates: Certificates, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rap.client")
    async with serving(fine, **files_of(certificates.server)) as server:
        client = files.client(server)
        async with client:
            files.trust(certificates.other_authority)
            assert await client.raw_call("fine") == 1  # what is connected stays
        assert "unable to get local issuer certificate" in await dialled(client)
        files.trust(certificates.authority)
        assert await dialled(client) == ""
        lines = [text for text in caplog.messages if "reloaded TLS files" in text]
        assert len(lines) == 2
        assert f"ssl_ca_path={files.ca}" in lines[0]


async def test_a_client_presents_the_certificate_that_it_has_now(
    certificates: Certificates, files: Files
) -> None:
    options = {**files_of(certificates.server), "ssl_ca_path": certificates.authority.crt_path}
    async with serving(fine, **options) as server:
        client = files.client(server)
        assert await dialled(client) == ""
        files.use(certificates.stranger)
        assert await dialled(client) != ""
        assert client.dialer.tls.not_after == certificates.stranger.not_after // 1
        files.use(certificates.client)
        assert await dialled(client) == ""


async def test_a_client_pins_the_certificate_that_is_in_the_file_now(
    certificates: Certificates, files: Files
) -> None:
    shutil.copy(certificates.server.crt_path, files.pin)
    async with serving(fine, **files_of(certificates.server)) as server:
        client = Client(server.addresses, ssl_crt_path=str(files.pin))
        assert await dialled(client) == ""
        shutil.copy(certificates.second_server.crt_path, files.pin)
        assert "not the pinned one" in await dialled(client)


async def test_a_client_refuses_servers_that_a_list_revokes(
    certificates: Certificates, files: Files
) -> None:
    shutil.copy(certificates.revoke(), files.crl)
    async with serving(fine, **files_of(certificates.server)) as server:
        client = files.client(server, ssl_crl_path=str(files.crl))
        assert await dialled(client) == ""
        shutil.copy(certificates.revoke(certificates.server), files.crl)
        assert "certificate revoked" in await dialled(client)
        shutil.copy(certificates.revoke_by(certificates.other_authority), files.crl)
        assert "option ssl_crl_path" in await dialled(client)


async def test_while_a_changed_file_cannot_be_used_the_old_ones_are(
    certificates: Certificates, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fine, **files_of(certificates.server)) as server:
        client = files.client(server)
        assert await dialled(client) == ""
        files.key.write_text("the first half of a ke")
        for _ in range(3):
            assert await dialled(client) == ""
        (line,) = [text for text in caplog.messages if "are not used" in text]
        assert "ssl_client_key_path" in line
        files.ca.unlink()
        assert await dialled(client) == ""
        assert "ssl_ca_path: no such file" in caplog.text
        with pytest.raises(ValueError, match="ssl_ca_path: no such file"):
            client.reload_certificates()
        assert await dialled(client) == ""


async def test_a_client_reloads_on_demand(
    certificates: Certificates, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rap.client")
    client = Client("localhost:9000", ssl_ca_path=str(files.ca))
    before = client.dialer.tls.trust().context
    client.reload_certificates()
    assert "new connections use the reloaded TLS files" in caplog.text
    assert client.dialer.tls.trust().context is not before
    SyncClient("localhost:9000", ssl_ca_path=str(files.ca)).reload_certificates()
    Client("localhost:9000").reload_certificates()


def test_a_change_is_noticed_although_nothing_else_tells_it(files: Files) -> None:
    """The file has the same size, the same inode, and a time of change as coarse as it may be."""
    client = Client("localhost:9000", ssl_ca_path=str(files.ca))
    seen = [client.dialer.tls.trust().context]
    text = files.ca.read_text()
    for comment in ("a", "b"):
        with files.ca.open("r+") as file:
            file.write(f"{comment}\n{text}")
        seen.append(client.dialer.tls.trust().context)
    assert len(set(map(id, seen))) == 3
    assert client.dialer.tls.trust().context is seen[-1]  # nothing has changed


async def test_the_status_of_a_client_says_when_its_certificate_expires(
    certificates: Certificates, files: Files
) -> None:
    client = files.client()
    assert client_status(client).certificate_not_after == certificates.client.not_after // 1
    assert client_status(Client("localhost:9000")).certificate_not_after is None
