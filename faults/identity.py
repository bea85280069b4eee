"""Rows 18 and 19: who is refused by TLS, and what a process held that was killed."""

import asyncio
import shutil
import sys
import time
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from faults.scenario import Measured, Scale, Scenario
from rap.client import Client
from rap.errors import CallError
from rap.redis.client import RedisClient
from rap.server import Server
from rap.shared_state.redis_connections import RedisConnections
from tests.redis_server import RedisServer, find_redis_server
from tests.transport.certificates import Certificates

__all__ = ["SCENARIOS"]

_ROOT = Path(__file__).parents[1]
_TTL = 2.0
_HELD = 4


async def _fine() -> int:
    return 1


async def _is_refused(server: Server, **files: Any) -> bool:
    """Whether a client with these files cannot call."""
    address = str(server.addresses[0])
    if not files:
        address = address.replace("tls://", "tcp://")
    try:
        async with Client(address, connect_timeout=1, **files) as client:
            await client.raw_call("fine", timeout=1)
    except CallError:
        return True
    return False


async def strangers(scale: Scale) -> Measured:
    """Wrong authority, name, time or version; none at all; and files that change under calls."""
    with TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        ca = certificates.authority.crt_path
        refused = [
            await _against(certificates.server, ssl_ca_path=certificates.other_authority.crt_path),
            await _against(certificates.elsewhere, ssl_ca_path=ca),
            await _against(certificates.expired, ssl_ca_path=ca),
            await _against(certificates.stranger, ssl_ca_path=ca),
            await _against(certificates.server, ssl_crt_path=certificates.second_server.crt_path),
            await _against(certificates.server),
            await _against(certificates.server, authority=ca, ssl_ca_path=ca),
            await _old_version(certificates),
        ]
        calls, failed = await _rotation(certificates, Path(folder))
    text = f"refused {sum(refused)} of {len(refused)}; {failed} of {calls} calls failed in rotation"
    return Measured(text, all(refused) and failed == 0 and calls > 0)


async def _against(own: Any, authority: str | None = None, **files: Any) -> bool:
    paths = {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path, "ssl_ca_path": authority}
    server = Server("127.0.0.1:0", close_timeout=0.2, **paths)
    server.register(_fine, "fine")
    async with server:
        return await _is_refused(server, **files)


async def _old_version(certificates: Certificates) -> bool:
    """Whether TLS 1.1 is refused."""
    own = certificates.server
    server = Server(
        "127.0.0.1:0", ssl_crt_path=own.crt_path, ssl_key_path=own.key_path, close_timeout=0.2
    )
    async with server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-c", _OLD, str(server.addresses[0].port)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    return output.strip() == b"refused"


_OLD = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_ciphers("ALL:@SECLEVEL=0")
context.minimum_version = ssl.TLSVersion.TLSv1
context.maximum_version = ssl.TLSVersion.TLSv1_1
try:
    context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
except (ssl.SSLError, OSError):
    print("refused")
"""


async def _rotation(certificates: Certificates, folder: Path) -> tuple[int, int]:
    """Return calls and failures while the files change ten times."""
    crt, key = folder / "used.crt", folder / "used.key"
    both = (certificates.server, certificates.second_server)

    def use(number: int) -> None:
        shutil.copy(both[number % 2].crt_path, crt)
        shutil.copy(both[number % 2].key_path, key)

    use(0)
    calls = failed = 0
    server = Server("127.0.0.1:0", ssl_crt_path=str(crt), ssl_key_path=str(key), close_timeout=0.2)
    server.register(_fine, "fine")
    ca = certificates.authority.crt_path
    async with server, Client(str(server.addresses[0]), ssl_ca_path=ca) as old:
        for number in range(1, 11):
            pending = [asyncio.create_task(old.raw_call("fine")) for _ in range(20)]
            use(number)
            server.reload_certificates()
            async with Client(str(server.addresses[0]), ssl_ca_path=ca) as new:
                pending += [asyncio.create_task(new.raw_call("fine")) for _ in range(20)]
                results = await asyncio.gather(*pending, return_exceptions=True)
            calls += len(results)
            failed += sum(result != 1 for result in results)
    return calls, failed


_CHILD = """
import asyncio, sys
from rap.redis.client import RedisClient
from rap.shared_state.redis_connections import RedisConnections

async def main():
    counter = RedisConnections(RedisClient(sys.argv[1]), "faults/conn", ttl=float(sys.argv[2]))
    for _ in range(int(sys.argv[3])):
        assert await counter.acquire("a", 1000)
    print("holding", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def killed_holder(scale: Scale) -> Measured:
    """One of three instances that count connections together is killed."""
    if find_redis_server() is None:
        return Measured("no redis-server found", None)
    with TemporaryDirectory() as folder, RedisServer(Path(folder)) as redis:
        children = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _CHILD, redis.url, str(_TTL), str(_HELD)),
                stdout=asyncio.subprocess.PIPE,
                cwd=_ROOT,
            )
            for _ in range(3)
        ]
        try:
            for child in children:
                assert child.stdout is not None
                await child.stdout.readline()
            counter = RedisConnections(RedisClient(redis.url), "faults/conn", ttl=_TTL)
            async with aclosing(counter):
                before = await counter.total("a")
                children[0].kill()
                began, seen = time.monotonic(), [before]
                while seen[-1] != before - _HELD and time.monotonic() - began < 10:
                    await asyncio.sleep(0.02)
                    seen.append(await counter.total("a"))
                took = time.monotonic() - began
        finally:
            for child in children:
                if child.returncode is None:
                    child.kill()
                await child.wait()
    text = f"{before} -> {seen[-1]} after {took:.1f} s with a TTL of {_TTL:g} s, never below"
    good = before == 3 * _HELD and min(seen) == before - _HELD and took <= _TTL + 1
    return Measured(text, good)


SCENARIOS = (
    Scenario(18, "TLS: wrong CA, name, time, version", "all refused, 0 calls lost", strangers),
    Scenario(19, "kill -9 of who holds counts", "right within TTL + 1 s", killed_holder),
)
