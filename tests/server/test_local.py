"""Which clients count as being on the server's machine, and so may call private functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rap.address import Peer
from rap.client import Client
from rap.errors import Unimplemented
from rap.server import Server, context
from rap.server.middleware import IpBlockMiddleware
from tests.loopback import LOOPBACK
from tests.transport.certificates import Certificates

ON_BOTH_LOOPS = True


async def secret() -> int:
    return 42


async def is_local() -> bool:
    peer = context.call.peer
    assert peer is not None
    return peer.is_local


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def sees_private(client: Client) -> bool:
    """Whether a client may call private functions; it may call all of them, or none."""
    calls: list[Callable[[], Any]] = [
        lambda: client.raw_call("secret"),
        lambda: client.raw_call("list", group="registry"),
        lambda: client.raw_call("describe", "secret", group="registry"),
        lambda: client.raw_call("get_allow_ip", group="IpBlockMiddleware"),
    ]
    found = set()
    for call in calls:
        try:
            await call()
        except Unimplemented:
            found.add(False)
        else:
            found.add(True)
    assert await client.raw_call("is_local") in found
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("local", "loopback", "unix"),
    [("loopback", True, True), ("unix", False, True), (None, False, False)],
)
@pytest.mark.parametrize("tls", [False, True])
async def test_private_functions_are_for_the_clients_that_count_as_local(
    local: str | None,
    loopback: bool,
    unix: bool,
    tls: bool,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    options: dict[str, Any] = {}
    if tls:
        pair = certificates.server
        options = {"ssl_crt_path": pair.crt_path, "ssl_key_path": pair.key_path}
    server = Server(
        [LOOPBACK, f"unix://{path}"],
        local=local,
        middleware_list=[IpBlockMiddleware()],
        **options,
    )
    server.register(secret, is_private=True)
    server.register(is_local)
    async with server:
        tcp, socket = server.addresses
        assert socket.scheme == "unix"
        authority = certificates.authority.crt_path if tls else None
        async with Client(tcp, ssl_ca_path=authority) as client:
            assert await sees_private(client) is loopback
        async with Client(socket) as client:
            assert await sees_private(client) is unix


@pytest.mark.parametrize("local", ["", "tcp", "LOOPBACK", True, 0])
def test_another_value_is_refused(local: Any) -> None:
    with pytest.raises(ValueError, match="local must be 'loopback', 'unix' or None"):
        Server(LOOPBACK, local=local)


def test_a_peer_is_narrowed() -> None:
    loopback, unix, far = Peer("127.0.0.1", 1, True), Peer("", 0, True), Peer("192.0.2.1", 1)
    for local, expected in [("loopback", (1, 1, 0)), ("unix", (0, 1, 0)), (None, (0, 0, 0))]:
        found = tuple(int(each.narrowed(local).is_local) for each in (loopback, unix, far))
        assert found == expected


def test_the_manifests_have_no_local_clients() -> None:
    manifest = Path(__file__).parents[2] / "k8s" / "base" / "server.yaml"
    assert "{name: APP_LOCAL, value: none}" in manifest.read_text()
