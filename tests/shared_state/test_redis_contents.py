"""What somebody can do who reads or writes the Redis of a registry, nonces and limits."""

import socket
from contextlib import aclosing, closing

import pytest

from rap.call import Request
from rap.client import Client
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.server.middleware import ConnLimitMiddleware
from rap.server.processor import CryptoProcessor, LimitProcessor, Rule
from rap.shared_state import Bucket
from rap.shared_state.redis import RedisState
from tests.loopback import PATIENCE, serving
from tests.redis_server import RedisServer

TOKEN, KEY, ARGUMENT, RESULT = "a-t0ken", "a-k3y-of-16-char", "an-argum3nt", "a-resu1t"


def by_name(request: Request) -> str | None:
    return request.func_name


async def ask(text: str) -> str:
    assert text == ARGUMENT
    return RESULT


async def test_redis_holds_no_token_key_argument_or_result(
    redis_single: RedisServer, namespace: str
) -> None:
    url = f"{redis_single.url}?namespace={namespace}"
    crypto = CryptoProcessor({"k": KEY}, nonce_store=url)
    limit = LimitProcessor(url, [(by_name, Rule(second=10, max_token=10))])
    with closing(socket.create_connection((redis_single.host, redis_single.port))) as monitor:
        monitor.sendall(b"MONITOR\r\n")
        async with (
            serving(
                ask,
                service="calc",
                registry=url,
                verify_token=TOKEN,
                middleware_list=[ConnLimitMiddleware(state=url)],
                processor_list=[crypto, limit],
            ),
            Client(
                service="calc",
                registry=url,
                token=TOKEN,
                processor_list=[ClientCrypto("k", KEY)],
            ) as client,
        ):
            assert await client.raw_call("ask", ARGUMENT) == RESULT
        redis_single.command("PING", "the-end")
        seen = bytearray()
        monitor.settimeout(10)
        while b"the-end" not in seen:
            seen += monitor.recv(1 << 16)
    commands = seen.decode().lower()
    for part in (f"rap:nonce:{namespace}", f"{namespace}/calc", "rap:bucket", "rap:lim"):
        assert part in commands, part
    for secret in (TOKEN, KEY, ARGUMENT, RESULT):
        assert secret not in commands
        assert secret.encode().hex() not in commands


@pytest.mark.parametrize("value", ["nonsense", "nan", "-1e999", "1e999", b"\xff"])
@pytest.mark.parametrize("field", ["t", "u", "b"])
async def test_what_someone_wrote_into_a_bucket_blocks_it_for_no_longer_than_an_empty_one(
    redis_single: RedisServer,
    namespace: str,
    field: str,
    value: str | bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may answer late, and then a share of the limit would be taken instead.
    monkeypatch.setattr("rap.shared_state.redis._BUCKET_TIMEOUT", PATIENCE)
    state = RedisState(redis_single.url, namespace=namespace)
    bucket = Bucket(capacity=2, rate=10, initial=2, block_time=0.5)
    async with aclosing(state.buckets("api")) as buckets:
        assert await buckets.take("k", bucket) == 0
        key = f"rap:bucket:{namespace}:api:k"
        redis_single.command("HSET", key, field, value)
        assert 0 <= await buckets.take("k", bucket) <= 0.5
        assert not buckets.away
