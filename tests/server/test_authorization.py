from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509

from rap.address import Certificate
from rap.call import Call
from rap.client import Client
from rap.errors import PermissionDenied, RegistrationError
from rap.server import Channel, Server
from rap.server.authorization import names_of
from tests.loopback import LOOPBACK, serving
from tests.transport.certificates import Certificates

CERTIFICATE = Certificate(
    subject=((("countryName", "XY"),), (("commonName", "ops"),)),
    subjectAltName=(
        ("DNS", "Ops.example"),
        ("URI", "spiffe://example/ops"),
        ("email", "ops@example"),
        ("IP Address", "2001:DB8:0:0:0:0:0:1"),
        ("DirName", ()),
        ("Registered ID", "1.2.3"),
    ),
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def one() -> int:
    return 1


async def items() -> AsyncIterator[int]:
    yield 1


async def talk(channel: Channel) -> None:
    await channel.write(1)


class Group:
    async def first(self) -> int:
        return 1

    async def second(self) -> int:
        return 2


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(verify_token=lambda token: token) as server:
        yield server


def called(server: Server, name: str) -> Client:
    return Client(server.addresses, token=name)


async def test_only_the_named_clients_may_call(server: Server) -> None:
    server.register(one, allow={"alice", "bob"})
    async with called(server, "bob") as bob:
        assert await bob.raw_call("one") == 1
    async with called(server, "carol") as carol:
        with pytest.raises(PermissionDenied, match=r"/default/one: this client may not call it"):
            await carol.raw_call("one")


async def test_a_rule_applies_to_all_stream_types(server: Server) -> None:
    server.register(items, allow={"alice"})
    server.register(talk, allow={"alice"})
    async with called(server, "carol") as carol:
        with pytest.raises(PermissionDenied):
            await anext(carol.iterator_call("items"))

        @carol.register("talk")
        async def remote(channel: Channel) -> Any:
            return await channel.read_body()

        untyped: Any = remote
        with pytest.raises(PermissionDenied):
            await untyped()
    async with called(server, "alice") as alice:
        assert [i async for i in alice.iterator_call("items")] == [1]


async def test_a_rule_function_receives_the_call(server: Server) -> None:
    seen: list[Call] = []

    def rule(call: Call) -> bool:
        seen.append(call)
        return call.header.get("reason") == "audit"

    server.register(one, allow=rule)
    async with called(server, "alice") as alice:
        assert await alice.raw_call("one", header={"reason": "audit"}) == 1
        with pytest.raises(PermissionDenied):
            await alice.raw_call("one", header={"reason": "none"})
    assert seen[0].method == "/default/one"
    assert seen[0].peer is not None
    assert seen[0].peer.identity == "alice"


@pytest.mark.parametrize("answer", [None, 1, "yes", object()])
async def test_only_true_allows(server: Server, answer: object) -> None:
    server.register(one, allow=lambda call: answer)
    async with called(server, "alice") as alice:
        with pytest.raises(PermissionDenied):
            await alice.raw_call("one")


async def test_a_rule_that_raises_refuses_the_call(server: Server) -> None:
    def rule(call: Call) -> bool:
        raise LookupError("no rule today")

    ran: list[int] = []

    async def note() -> None:
        ran.append(1)

    server.register(note, allow=rule)
    async with called(server, "alice") as alice:
        with pytest.raises(LookupError, match="no rule today"):
            await alice.raw_call("note")
    assert ran == []


async def test_a_rule_of_an_object_applies_to_its_methods(server: Server) -> None:
    server.register(Group(), allow={"alice"})
    async with called(server, "bob") as bob:
        for name in ("first", "second"):
            with pytest.raises(PermissionDenied):
                await bob.raw_call(name, group="Group")


async def test_a_rule_of_a_group_applies_to_present_and_future_functions(server: Server) -> None:
    server.register(one, "before", "g")
    server.allow_group("g", {"alice", "bob"})
    server.register(one, "after", "g", allow={"alice"})
    server.register(one)
    server.allow_group("g", lambda call: "reason" in call.header)
    why = {"reason": "audit"}
    async with called(server, "bob") as bob:
        assert await bob.raw_call("before", group="g", header=why) == 1
        assert await bob.raw_call("one") == 1
        for name, header in [("before", None), ("after", why)]:
            with pytest.raises(PermissionDenied):
                await bob.raw_call(name, group="g", header=header)
    async with called(server, "alice") as alice:
        assert await alice.raw_call("after", group="g", header=why) == 1


async def test_a_reloaded_function_keeps_its_rule() -> None:
    async with serving(allow_load=True) as server:
        server.register(one, allow={"alice"})
        async with Client(server.addresses) as client:
            await client.raw_call("reload", __name__, "one", group="registry")
            with pytest.raises(PermissionDenied):
                await client.raw_call("one")


@pytest.mark.parametrize("allow", ["alice", b"alice", 3, {""}, {3}, iter(["alice"])])
def test_an_invalid_rule_is_refused(allow: Any) -> None:
    server = Server(LOOPBACK)
    with pytest.raises(RegistrationError, match="allow"):
        server.register(one, allow=allow)
    with pytest.raises(RegistrationError, match="allow"):
        server.allow_group("g", allow)


def test_an_async_rule_is_refused() -> None:
    async def rule(call: Call) -> bool:
        return True

    with pytest.raises(RegistrationError, match="is async"):
        Server(LOOPBACK).register(one, allow=rule)


def test_a_group_needs_a_rule() -> None:
    nothing: Any = None
    with pytest.raises(RegistrationError, match="got None"):
        Server(LOOPBACK).allow_group("g", nothing)


def test_the_names_of_an_identity() -> None:
    assert names_of("alice") == {"alice"}
    assert names_of("team:alice") == {"team:alice"}
    assert names_of(CERTIFICATE) == {
        "ops",
        "CN:ops",
        "DNS:ops.example",
        "URI:spiffe://example/ops",
        "email:ops@example",
        "IP:2001:db8::1",
    }
    assert names_of(None) == names_of(3) == names_of({}) == frozenset()


def test_a_dict_that_a_verifier_returns_is_no_certificate() -> None:
    assert names_of(dict(CERTIFICATE)) == frozenset()


@pytest.mark.parametrize("identity", ["CN:ops", "DNS:ops.example", "URI:x", "email:a@b", "IP:::1"])
def test_a_text_is_never_a_name_of_a_certificate(identity: str) -> None:
    assert names_of(identity) == frozenset()


def test_a_certificate_with_several_common_names_has_none_alone() -> None:
    several = Certificate(subject=((("commonName", "web"),), (("commonName", "alice"),)))
    assert names_of(several) == {"CN:web", "CN:alice"}
    assert names_of(Certificate(subject=((("commonName", "DNS:a"),),))) == {"CN:DNS:a"}


@pytest.mark.parametrize("name", ["dns:a", "Uri:a", "EMAIL:a", "IP Address:10.0.0.1", "IP:alice"])
def test_a_name_that_is_almost_one_of_a_certificate_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match="allow: "):
        Server(LOOPBACK).register(one, allow={name})


async def test_a_rule_tells_the_names_of_a_certificate_apart(certificates: Certificates) -> None:
    """An authority that lets a client choose an email address has not called it alice."""
    alice = certificates.issue("alice", x509.DNSName("web.example"))
    others = [
        certificates.issue("web 1", x509.DNSName("alice")),
        certificates.issue("web 2", x509.RFC822Name("alice")),
        certificates.issue("web 3", x509.UniformResourceIdentifier("alice")),
    ]
    options: dict[str, Any] = {
        "ssl_crt_path": certificates.server.crt_path,
        "ssl_key_path": certificates.server.key_path,
        "ssl_ca_path": certificates.authority.crt_path,
    }

    async def may_call(to: Server, name: str, crt_path: str, key_path: str) -> bool:
        client = Client(
            to.addresses,
            ssl_ca_path=certificates.authority.crt_path,
            ssl_client_crt_path=crt_path,
            ssl_client_key_path=key_path,
        )
        async with client:
            try:
                return bool(await client.raw_call(name))
            except PermissionDenied:
                return False

    async with serving(**options) as server:
        server.register(one, allow={"alice"})
        server.register(one, "web", allow={"DNS:WEB.example"})
        assert await may_call(server, "one", alice.crt_path, alice.key_path)
        assert await may_call(server, "web", alice.crt_path, alice.key_path)
        for other in others:
            assert not await may_call(server, "one", other.crt_path, other.key_path)
            assert not await may_call(server, "web", other.crt_path, other.key_path)


async def test_a_rule_does_not_read_the_identity_of_a_token_as_a_certificate() -> None:
    def verify(token: str) -> dict[str, Any]:
        return {"subject": ((("commonName", token),),), "user": "mallory"}

    async with serving(verify_token=verify) as server:
        server.register(one, allow={"alice"})
        async with called(server, "alice") as client:
            with pytest.raises(PermissionDenied):
                await client.raw_call("one")
