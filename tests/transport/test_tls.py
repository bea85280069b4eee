"""TLS: which peers are accepted, and that every refusal has a reason."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rap.address import Address
from rap.errors import Unavailable
from rap.transport.dial import dial
from rap.transport.listen import listen
from rap.transport.tls import (
    ServerTls,
    ServerTrust,
    client_context,
    is_pinned,
    pinned_certificate,
    server_context,
)
from tests.loopback import Unnoticed, eventually, within
from tests.transport.certificates import Certificates
from tests.transport.pairs import DEFAULTS, Pair, end
from tests.transport.recorder import recording


@asynccontextmanager
async def tls_server(own: Any, authority: str | None = None) -> AsyncIterator[tuple[Pair, Address]]:
    """Listen with a certificate; with `authority`, clients need one too."""
    pair = Pair(DEFAULTS, DEFAULTS, None)
    tls = ServerTls(own.crt_path, own.key_path, authority)
    listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5, tls=tls)
    try:
        yield pair, listener.address
    finally:
        listener.close()
        await pair.end()


async def connect(pair: Pair, address: Address, *, pinned: str | None = None, **files: Any) -> None:
    context = client_context(pinned_path=pinned, **files)
    trust = ServerTrust(context, None if pinned is None else pinned_certificate(pinned))
    await dial(address, pair.make_client, timeout=10, trust=trust)


async def refusal(pair: Pair, address: Address, **files: Any) -> str:
    """Return why a dial was refused; nothing of it may be left open."""
    with pytest.raises(Unavailable) as caught:
        await connect(pair, address, **files)
    assert caught.value.unserved
    if pair.client is not None and pair.client.transport is not None:
        await within(asyncio.shield(pair.client.ended))
    message = str(caught.value)
    assert message.startswith(f"cannot reach {address}: ")
    return message


async def test_a_chain_to_the_authority_and_the_right_name_are_accepted(
    certificates: Certificates,
) -> None:
    async with tls_server(certificates.server) as (pair, address):
        assert address.scheme == "tls"
        await connect(pair, address, ca_path=certificates.authority.crt_path)
        assert pair.client.usable
        version = pair.client.transport.get_extra_info("ssl_object").version()
        assert version in ("TLSv1.2", "TLSv1.3")


async def test_a_certificate_of_another_authority_is_refused(certificates: Certificates) -> None:
    async with tls_server(certificates.server) as (pair, address):
        why = await refusal(pair, address, ca_path=certificates.other_authority.crt_path)
        assert "unable to get local issuer certificate" in why


async def test_a_certificate_for_another_host_name_is_refused(certificates: Certificates) -> None:
    async with tls_server(certificates.elsewhere) as (pair, address):
        why = await refusal(pair, address, ca_path=certificates.authority.crt_path)
        assert "certificate is not valid for '127.0.0.1'" in why
        assert why.endswith("(options ssl_server_name, ssl_identity: whom to expect)")


async def test_an_expired_certificate_is_refused(certificates: Certificates) -> None:
    async with tls_server(certificates.expired) as (pair, address):
        why = await refusal(pair, address, ca_path=certificates.authority.crt_path)
        assert why.endswith("its certificate is refused: certificate has expired; renew it")


async def test_the_authorities_of_the_system_do_not_include_ours(
    certificates: Certificates,
) -> None:
    async with tls_server(certificates.server) as (pair, address):
        why = await refusal(pair, address)
        assert "its certificate is refused: unable to get local issuer certificate (" in why
        assert why.endswith("(option ssl_ca_path: the authority that issued it)")


async def test_the_pinned_certificate_is_accepted_whatever_name_it_has(
    certificates: Certificates,
) -> None:
    for own in (certificates.self_signed, certificates.elsewhere):
        async with tls_server(own) as (pair, address):
            await connect(pair, address, pinned=own.crt_path)
            assert pair.client.usable


async def test_a_certificate_that_is_not_the_pinned_one_is_refused(
    certificates: Certificates,
) -> None:
    async with tls_server(certificates.self_signed) as (pair, address):
        why = await refusal(pair, address, pinned=certificates.server.crt_path)
        assert why.endswith("its certificate is not the pinned one")


async def test_nothing_is_sent_to_a_holder_of_a_certificate_that_the_pinned_one_signed(
    certificates: Certificates, unnoticed: Unnoticed
) -> None:
    """The chain is good, so only the comparison stands in the way."""
    pin = certificates.authority.crt_path
    own = certificates.second_server
    with recording(server_context(own.crt_path, own.key_path)) as recorder:
        pair = Pair(DEFAULTS, DEFAULTS, None)
        why = await refusal(pair, recorder.address, pinned=pin)
        assert why.endswith("its certificate is not the pinned one")
        assert pair.client.closed
        await eventually(lambda: recorder.ended)
        assert recorder.received == b""
    await unnoticed.check()


async def test_a_pinned_certificate_expires_too(certificates: Certificates) -> None:
    own = certificates.expired_self_signed
    async with tls_server(own) as (pair, address):
        assert "certificate has expired" in await refusal(pair, address, pinned=own.crt_path)


async def test_a_mutual_tls_server_knows_the_identity_of_its_client(
    certificates: Certificates,
) -> None:
    authority, mine = certificates.authority.crt_path, certificates.client
    async with tls_server(certificates.server, authority) as (pair, address):
        await connect(
            pair, address, ca_path=authority, crt_path=mine.crt_path, key_path=mine.key_path
        )
        await eventually(lambda: pair.server is not None and pair.server.handshake.done())
        assert pair.server.peer.identity["subject"] == ((("commonName", "client"),),)
        assert pair.client.peer.identity["subject"] == ((("commonName", "server"),),)


async def test_a_server_that_asks_for_no_certificate_knows_no_identity(
    certificates: Certificates,
) -> None:
    async with tls_server(certificates.server) as (pair, address):
        await connect(pair, address, ca_path=certificates.authority.crt_path)
        assert pair.server.peer.identity is None


async def test_a_mutual_tls_server_refuses_unknown_and_missing_certificates(
    certificates: Certificates,
) -> None:
    authority, other = certificates.authority.crt_path, certificates.stranger
    async with tls_server(certificates.server, authority) as (pair, address):
        for files in ({}, {"crt_path": other.crt_path, "key_path": other.key_path}):
            why = await refusal(pair, address, ca_path=authority, **files)
            assert address.host in why
        assert pair.server is None or not pair.server.handshake.done()


async def test_a_plain_client_cannot_connect_to_a_tls_server(
    certificates: Certificates,
) -> None:
    async with tls_server(certificates.server) as (pair, address):
        with pytest.raises(Unavailable, match=f"cannot reach {address}: .*speak TLS"):
            await dial(address, pair.make_client, timeout=10)


async def test_a_tls_client_reports_that_a_server_does_not_speak_tls(
    certificates: Certificates,
) -> None:
    pair = Pair(DEFAULTS, DEFAULTS, None)
    listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5)
    try:
        why = await refusal(pair, listener.address, ca_path=certificates.authority.crt_path)
        assert "it does not speak TLS" in why
    finally:
        listener.close()
        await pair.end()


async def test_a_client_older_than_tls_1_2_is_refused(certificates: Certificates) -> None:
    async with tls_server(certificates.server) as (pair, address):
        context = client_context(ca_path=certificates.authority.crt_path)
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(Unavailable):
            await dial(address, pair.make_client, timeout=10, trust=ServerTrust(context))
    assert client_context().minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_client_cannot_begin_another_handshake(certificates: Certificates) -> None:
    """Each one costs the server far more than the client."""
    own = certificates.server
    assert server_context(own.crt_path, own.key_path).options & ssl.OP_NO_RENEGOTIATION


async def test_certificates_can_be_changed_while_connections_are_open(
    certificates: Certificates, tmp_path: Path
) -> None:
    crt, key = tmp_path / "used.crt", tmp_path / "used.key"

    def use(own: Any) -> None:
        shutil.copy(own.crt_path, crt)
        shutil.copy(own.key_path, key)

    use(certificates.server)
    pair, other = Pair(DEFAULTS, DEFAULTS, None), Pair(DEFAULTS, DEFAULTS, None)
    tls = ServerTls(str(crt), str(key))
    listener = await listen(Address("tcp", "127.0.0.1"), pair.make_server, backlog=5, tls=tls)
    try:
        await connect(pair, listener.address, ca_path=certificates.authority.crt_path)
        first_server = pair.server
        use(certificates.second_server)
        tls.reload()
        await connect(other, listener.address, ca_path=certificates.authority.crt_path)
        shown = [
            c.transport.get_extra_info("ssl_object").getpeercert()
            for c in (pair.client, other.client)
        ]
        names = [dict(pairs for (pairs,) in each["subject"])["commonName"] for each in shown]
        assert names == ["server", "second server"]
        assert pair.client.usable
        assert not first_server.closed
    finally:
        listener.close()
        await pair.end()
        await other.end()
        await end(first_server)


def test_a_missing_file_is_named(certificates: Certificates) -> None:
    good, gone = certificates.server, str(certificates.directory / "gone")
    with pytest.raises(ValueError, match=f"ssl_crt_path: no such file '{gone}'"):
        server_context(gone, good.key_path)
    with pytest.raises(ValueError, match=f"ssl_key_path: no such file '{gone}'"):
        server_context(good.crt_path, gone)
    with pytest.raises(ValueError, match=f"ssl_ca_path: no such file '{gone}'"):
        server_context(good.crt_path, good.key_path, gone)
    with pytest.raises(ValueError, match=f"ssl_crt_path: no such file '{gone}'"):
        client_context(pinned_path=gone)
    with pytest.raises(ValueError, match=f"ssl_ca_path: no such file '{gone}'"):
        client_context(ca_path=gone)
    with pytest.raises(ValueError, match=f"ssl_client_crt_path: no such file '{gone}'"):
        client_context(crt_path=gone)
    with pytest.raises(ValueError, match=f"ssl_client_key_path: no such file '{gone}'"):
        client_context(crt_path=good.crt_path, key_path=gone)
    with pytest.raises(ValueError, match="ssl_crt_path: cannot use"):
        pinned_certificate(gone)


def test_a_file_without_a_certificate_is_named(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.server
    bad = tmp_path / "bad.pem"
    for content in (b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"ssl_crt_path=.*bad.pem.* and ssl_key_path=.*cannot"):
            server_context(str(bad), good.key_path)
        with pytest.raises(ValueError, match=r"ssl_ca_path: .*bad.pem' holds no usable"):
            client_context(ca_path=str(bad))
        with pytest.raises(ValueError, match=r"ssl_crt_path: cannot use .*bad.pem"):
            pinned_certificate(str(bad))


def test_a_key_of_another_certificate_is_refused(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match=r"ssl_crt_path=.*ssl_key_path=.*cannot be used together"):
        server_context(certificates.server.crt_path, certificates.client.key_path)


def test_an_encrypted_key_is_refused_without_a_password_prompt(
    certificates: Certificates,
) -> None:
    with pytest.raises(ValueError, match=r"encrypted.key' cannot be used together"):
        server_context(certificates.server.crt_path, certificates.encrypted_key_path)


def test_the_key_may_be_in_the_file_of_the_certificate(
    certificates: Certificates, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    mine = certificates.client
    both.write_text(Path(mine.crt_path).read_text() + Path(mine.key_path).read_text())
    client_context(crt_path=str(both))


def test_the_first_certificate_of_a_file_is_pinned(
    certificates: Certificates, tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    first, second = certificates.server.crt_path, certificates.authority.crt_path
    chain.write_text("text before\n" + Path(first).read_text() + Path(second).read_text())
    assert pinned_certificate(str(chain)) == pinned_certificate(first)


def test_without_tls_nothing_is_pinned() -> None:
    assert not is_pinned(None, b"certificate")
