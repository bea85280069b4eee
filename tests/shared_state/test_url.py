"""Shared state from its URL."""

import subprocess
import sys

import pytest

from rap.shared_state import MemoryState, state_from_url
from rap.shared_state.redis import RedisState


def test_a_url_names_a_state() -> None:
    assert isinstance(state_from_url("memory://"), MemoryState)
    assert isinstance(state_from_url("memory://?namespace=prod"), MemoryState)
    for url in (
        "redis://localhost:6379/0",
        "rediss://user:secret@localhost?namespace=prod",
        "redis+unix:///run/redis.sock?db=1",
        "redis+sentinel://a:1,b:2/mymaster",
        "redis+cluster://a:1,b:2?namespace=prod",
    ):
        assert isinstance(state_from_url(url), RedisState)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (None, "state must be a URL such as redis://host:6379/0, got None"),
        ("localhost:6379", "unknown scheme 'localhost:6379'; known are memory://, redis://"),
        ("etcd://localhost", "unknown scheme 'etcd'"),
        ("memory://shared", "takes nothing but a namespace, got 'memory://shared'"),
        ("memory://?size=1", "takes nothing but a namespace"),
        ("redis://localhost?namespace=a/b", "namespace must match .*, got 'a/b'"),
        ("redis://localhost?nam=a", "unknown option 'nam'"),
        ("redis://localhost:x", "port must be a number"),
    ],
)
def test_a_bad_url_is_refused(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        state_from_url(url)


def test_an_error_does_not_have_the_password() -> None:
    with pytest.raises(ValueError, match="unknown option") as caught:
        state_from_url("redis://user:secret@localhost?size=1")
    assert "secret" not in str(caught.value)


def test_states_of_one_scope_are_the_same() -> None:
    state = state_from_url("memory://")
    assert state.connections("a") is state.connections("a")
    assert state.connections("a") is not state.connections("b")
    assert state.buckets("a") is state.buckets("a")
    assert state.nonces() is state.nonces()


@pytest.mark.parametrize("scope", ["", "a:b", "a{b", "x" * 201, "a\nb", None])
def test_a_bad_scope_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="scope must be 1 to 200 printable characters"):
        state_from_url("memory://").connections(scope)


@pytest.mark.parametrize("number", ["0", "-1", "", "1.5", "x", "100001", "9" * 5000, "²"])
def test_a_number_of_instances_out_of_range_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="instances must be 1 to 100000"):
        state_from_url(f"redis://localhost?instances={number}")


def test_redis_is_only_needed_by_its_urls() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from rap.shared_state import state_from_url\n"
        "state_from_url('memory://')\n"
        "try: state_from_url('redis://localhost')\n"
        "except ImportError as exc: print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "redis:// needs the extra redis: install rap[redis]\n"
