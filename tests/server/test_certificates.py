import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from rap.client import Client
from rap.errors import PermissionDenied, Unavailable
from rap.server import Server, context
from tests.loopback import serving, within
from tests.transport.certificates import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def files(certificates: Certificates, tmp_path: Path) -> dict[str, Any]:
    """The server's files, in a place of their own so that a test may replace them."""
    put(certificates.server, tmp_path)
    return {
        "ssl_crt_path": str(tmp_path / "crt"),
        "ssl_key_path": str(tmp_path / "key"),
        "ssl_ca_path": certificates.authority.crt_path,
    }


def put(pair: Any, directory: Path) -> None:
    shutil.copy(pair.crt_path, directory / "crt")
    shutil.copy(pair.key_path, directory / "key")


def client_of(server: Server, certificates: Certificates, pair: Any, **options: Any) -> Client:
    return Client(
        server.addresses,
        ssl_ca_path=certificates.authority.crt_path,
        ssl_client_crt_path=pair.crt_path if pair else None,
        ssl_client_key_path=pair.key_path if pair else None,
        **options,
    )


async def common_name() -> str:
    peer = context.call.peer
    assert peer is not None
    return str(dict(group[0] for group in peer.identity["subject"])["commonName"])


async def one() -> int:
    return 1


async def test_a_handler_sees_whose_certificate_it_is(
    certificates: Certificates, files: dict[str, Any]
) -> None:
    async with serving(common_name, **files) as server:
        async with client_of(server, certificates, certificates.client) as client:
            assert await client.raw_call("common_name") == "client"


@pytest.mark.parametrize("who", [None, "stranger", "expired"])
async def test_who_has_no_certificate_of_the_authority_is_refused(
    certificates: Certificates, files: dict[str, Any], who: str | None
) -> None:
    pair = getattr(certificates, who) if who else None
    async with serving(one, **files) as server:
        client = client_of(server, certificates, pair, connect_timeout=0.5)
        with pytest.raises(Unavailable):
            await client.connect()
        await client.await_close()


async def test_a_rule_names_who_the_certificate_is_of(
    certificates: Certificates, files: dict[str, Any]
) -> None:
    async with serving(**files) as server:
        server.register(one, "theirs", allow={"client"})
        server.register(one, "others", allow={"second server"})
        async with client_of(server, certificates, certificates.client) as client:
            assert await client.raw_call("theirs") == 1
            with pytest.raises(PermissionDenied):
                await client.raw_call("others")


async def test_a_token_that_is_admitted_leaves_the_identity_to_the_certificate(
    certificates: Certificates, files: dict[str, Any]
) -> None:
    async with serving(common_name, verify_token="secret", **files) as server:
        options = {"token": "secret"}
        async with client_of(server, certificates, certificates.client, **options) as client:
            assert await client.raw_call("common_name") == "client"


async def test_certificates_are_reloaded_without_dropping_a_call(
    certificates: Certificates, files: dict[str, Any], tmp_path: Path
) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def wait() -> int:
        started.set()
        await go.wait()
        return 1

    async with serving(wait, **files) as server:
        client = client_of(server, certificates, certificates.client)
        async with client:
            call = asyncio.create_task(client.raw_call("wait"))
            await within(started.wait())
            put(certificates.second_server, tmp_path)
            server.reload_certificates()
            assert await presented(server, certificates) != presented_by(client)
            go.set()
            assert await within(call) == 1


async def test_a_bad_file_changes_nothing(
    certificates: Certificates, files: dict[str, Any], tmp_path: Path
) -> None:
    async with serving(one, **files) as server:
        async with client_of(server, certificates, certificates.client) as client:
            before = presented_by(client)
            put(certificates.second_server, tmp_path)
            shutil.copy(certificates.client.key_path, tmp_path / "key")
            with pytest.raises(ValueError, match="cannot be used together"):
                server.reload_certificates()
            assert await client.raw_call("one") == 1
            assert await presented(server, certificates) == before


def presented_by(client: Client) -> bytes:
    """Return the certificate of the server that a client is connected to."""
    (node,) = client.cluster.nodes.values()
    assert node.conn is not None
    certificate = node.conn.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert isinstance(certificate, bytes)
    return certificate


async def presented(server: Server, certificates: Certificates) -> bytes:
    """Return the certificate that a server shows to a new client."""
    async with client_of(server, certificates, certificates.client) as client:
        found = presented_by(client)

    return found
