"""Rows 38 and 39: where a registry may lead a client, and whom a server trusts no longer."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography import x509

from faults.scenario import Measured, Scale, Scenario
from rap.client import Client
from rap.clock import SystemClock
from rap.errors import CallError
from rap.registry import Endpoint, MemoryRegistry
from rap.registry.signature import Signer
from rap.server import Server
from rap.transport.tls import server_context
from tests.loopback import eventually
from tests.transport.certificates import Certificates
from tests.transport.recorder import Recorder, recording

__all__ = ["SCENARIOS"]

_POISONED, _AT_ONCE = 1000, 100
_TOKEN, _ARGUMENT = "token-of-the-client", "argument-of-the-client"
_KEY, _OTHER_KEY = "key of servers and clients", "key of somebody else"
_CALLS = 200
_PATIENCE = 60.0  # seconds
_AGE = _GRACE = 0.5  # seconds
_SLACK = 1.0  # seconds


async def _length(text: str) -> int:
    return len(text)


async def _hang() -> None:
    await asyncio.Event().wait()


async def poisoned_records(scale: Scale) -> Measured:
    """A thousand records that lead elsewhere, beside one good server, with TLS and with a key."""
    with TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        calc = x509.UniformResourceIdentifier("spiffe://prod/calc")
        own = certificates.issue("calc", calc)
        other = certificates.issue("shop", x509.UniformResourceIdentifier("spiffe://prod/shop"))
        tls: dict[str, Any] = {
            "ssl_ca_path": certificates.authority.crt_path,
            "ssl_identity": "URI:spiffe://prod/calc",
        }
        files: dict[str, Any] = {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path}
        traps: list[dict[str, Any]] = [
            {"path": Path(folder) / "trap"},
            {"hangs_up": True},
            {"context": server_context(other.crt_path, other.key_path)},
            {"context": _context_of(certificates.stranger)},
            {"context": _context_of(certificates.self_signed)},
        ]
        secured = await _lured(traps, files, tls, is_signed=False)
        signed = await _lured([{}], {}, {"registry_key": _KEY}, is_signed=True)
    leaked, answered, dialled = secured
    signed_leaked, signed_answered, signed_dialled = signed
    text = (
        f"{leaked + signed_leaked} servers saw a token or an argument, in {dialled} connections "
        f"with TLS and {signed_dialled} with signatures; "
        f"{answered} and {signed_answered} of {_CALLS} calls answered"
    )
    good = not leaked and not signed_leaked and not signed_dialled
    return Measured(text, good and answered == signed_answered == _CALLS and dialled > 0)


def _context_of(own: Any) -> Any:
    return server_context(own.crt_path, own.key_path)


async def _lured(
    traps: list[dict[str, Any]], files: dict[str, Any], options: dict[str, Any], *, is_signed: bool
) -> tuple[int, int, int]:
    """Return how many traps saw something, calls that were answered, and connections to traps."""
    registry = MemoryRegistry()
    where: dict[str, Any] = {"service": "calc", "registry": registry}
    key: dict[str, Any] = {"registry_key": _KEY} if is_signed else {}
    server = Server("127.0.0.1:0", verify_token=_TOKEN, drain_delay=0, **where, **files, **key)
    server.register(_length, "length")
    with ExitStack() as stack:
        recorders = [stack.enter_context(recording(**each)) for each in traps]
        answered = 0
        async with server:
            signer = Signer(_OTHER_KEY.encode(), "calc", SystemClock())
            for begin in range(0, _POISONED, _AT_ONCE):  # descriptors are scarce
                lies = [
                    Endpoint(f"{number}", recorders[number % len(recorders)].address)
                    for number in range(begin, begin + _AT_ONCE)
                ]
                for number, lie in enumerate(lies):
                    told = signer.sign(lie) if number % 2 else lie
                    await registry.register("calc", told, ttl=600)
                client = Client(
                    token=_TOKEN, subset=None, connect_timeout=2, slow_start=0, **where, **options
                )
                async with client:
                    for _ in range(_CALLS * _AT_ONCE // _POISONED):
                        with suppress(CallError):
                            found = await client.raw_call("length", _ARGUMENT)
                            answered += found == len(_ARGUMENT)
                    await _tried(client)
                for lie in lies:
                    await registry.deregister("calc", lie)
        leaks = sum(map(_leaks, recorders))
        return leaks, answered, sum(each.ended for each in recorders)


async def _tried(client: Client) -> None:
    """Wait until every server has been dialled."""
    await eventually(lambda: all(node.pool.tried for node in client.cluster.nodes.values()))


def _leaks(recorder: Recorder) -> bool:
    return any(each.encode() in recorder.received for each in (_TOKEN, _ARGUMENT))


async def withdrawn_trust(scale: Scale) -> Measured:
    """An authority, a certificate and an identity that a server must not trust any more."""
    with TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        ca, crl = Path(folder) / "ca.crt", Path(folder) / "revoked.crl"
        refused: list[float] = []
        ended: list[float] = []
        for change in ("authority", "revoked", "expired"):
            shutil.copy(certificates.authority.crt_path, ca)
            shutil.copy(certificates.revoke(), crl)
            async with _mutual(certificates, ca, crl) as server:
                assert await _admits(server, certificates, certificates.client)
                old = await _hanging(server, certificates)
                began = time.monotonic()
                own = certificates.client
                if change == "authority":
                    shutil.copy(certificates.other_authority.crt_path, ca)
                elif change == "revoked":
                    shutil.copy(certificates.revoke(certificates.client), crl)
                else:
                    own = certificates.expired
                server.reload_certificates()
                if await _admits(server, certificates, own):
                    return Measured(f"{change}: a new handshake was accepted", False)
                refused.append(time.monotonic() - began)
                ended.append(await _end_of(old, began))
        shutil.copy(certificates.authority.crt_path, ca)
        shutil.copy(certificates.revoke(), crl)
        async with _mutual(certificates, ca, crl) as server:
            old = await _hanging(server, certificates)
            began = time.monotonic()
            server.revoke("CN:client")
            dismissed = await _end_of(old, began)
    text = (
        f"refused after {max(refused):.2f} s; old calls ended after {max(ended):.2f} s with "
        f"{_AGE:g} + {_GRACE:g} s, those of a revoked identity after {1000 * dismissed:.0f} ms"
    )
    latest = 1.1 * _AGE + _GRACE + _SLACK
    return Measured(text, max(refused) <= 1 and max(ended) <= latest and dismissed <= _SLACK)


@asynccontextmanager
async def _mutual(certificates: Certificates, ca: Path, crl: Path) -> AsyncIterator[Server]:
    own = certificates.server
    server = Server(
        "127.0.0.1:0",
        ssl_crt_path=own.crt_path,
        ssl_key_path=own.key_path,
        ssl_ca_path=str(ca),
        ssl_crl_path=str(crl),
        max_connection_age=_AGE,
        max_connection_grace=_GRACE,
        close_timeout=0.1,
        run_timeout=None,
    )
    server.register(_length, "length")
    server.register(_hang, "hang")
    async with server:
        yield server


def _client(server: Server, certificates: Certificates, own: Any) -> Client:
    return Client(
        server.addresses,
        ssl_ca_path=certificates.authority.crt_path,
        ssl_client_crt_path=own.crt_path,
        ssl_client_key_path=own.key_path,
    )


async def _admits(server: Server, certificates: Certificates, own: Any) -> bool:
    client = _client(server, certificates, own)
    try:
        return bool(await client.raw_call("length", "a", wait_for_ready=False) == 1)
    except CallError:
        return False
    finally:
        await client.close()


async def _hanging(server: Server, certificates: Certificates) -> tuple[Client, Any]:
    """Return a client, and its call that does not end by itself."""
    client = _client(server, certificates, certificates.client)
    await client.connect()
    call = asyncio.create_task(client.raw_call("hang", timeout=_PATIENCE))
    await eventually(lambda: any(it.streams for it in server.connection_manager.connections))
    return client, call


async def _end_of(old: tuple[Client, Any], began: float) -> float:
    """Return the seconds until the call has failed."""
    client, call = old
    with suppress(CallError):
        await call
    took = time.monotonic() - began
    await client.close()
    return took


SCENARIOS = (
    Scenario(
        38,
        "registry records that lead elsewhere",
        "0 of 1,000 see a token or an argument",
        poisoned_records,
    ),
    Scenario(
        39,
        "authority, certificate, identity gone",
        "refused within 1 s, old ones within the grace",
        withdrawn_trust,
    ),
)
