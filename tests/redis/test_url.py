import pytest

from rap.redis.url import RedisTarget

LOCAL = (("localhost", 6379),)


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "db"),
    [
        ("redis://localhost", "single", LOCAL, 0),
        ("redis://localhost:6379/0", "single", LOCAL, 0),
        ("redis://localhost/", "single", LOCAL, 0),
        ("redis://[::1]:7000/3", "single", (("::1", 7000),), 3),
        ("redis://[::1]", "single", (("::1", 6379),), 0),
        ("redis+sentinel://a,b:1/main", "sentinel", (("a", 26379), ("b", 1)), 0),
        ("redis+sentinel://a/main/4", "sentinel", (("a", 26379),), 4),
        ("redis+cluster://a:1,b:2", "cluster", (("a", 1), ("b", 2)), 0),
        ("rediss+cluster://a:1/", "cluster", (("a", 1),), 0),
    ],
)
def test_a_url_names_hosts_and_database(
    url: str, kind: str, hosts: tuple[tuple[str, int], ...], db: int
) -> None:
    target = RedisTarget.parse(url)
    assert (target.kind, target.hosts, target.db) == (kind, hosts, db)


def test_a_socket_may_have_escapes_and_a_database() -> None:
    target = RedisTarget.parse("redis+unix:///run/my%20redis.sock?db=2")
    assert (target.kind, target.path, target.db) == ("unix", "/run/my redis.sock", 2)
    assert str(target) == "redis+unix:///run/my%20redis.sock?db=2"


def test_credentials_are_decoded_and_never_shown() -> None:
    target = RedisTarget.parse("redis+sentinel://me:p%40ss@a/main")
    assert target.credentials == {"username": "me", "password": "p@ss"}
    assert "p@ss" not in f"{target} {target!r}"
    assert str(target) == "redis+sentinel://a:26379/main"
    assert str(RedisTarget.parse("rediss://:p@[::1]/3?ssl_ca_path=/ca")) == "rediss://[::1]:6379/3"
    assert RedisTarget.parse("redis://:only@a").credentials == {"password": "only"}
    assert RedisTarget.parse("redis://a").credentials == {}


def test_tls_checks_names_and_takes_its_files_from_the_url() -> None:
    target = RedisTarget.parse("rediss://a?ssl_ca_path=/ca&ssl_crt_path=/crt&ssl_key_path=/key")
    assert target.tls == {
        "ssl": True,
        "ssl_check_hostname": True,
        "ssl_ca_certs": "/ca",
        "ssl_certfile": "/crt",
        "ssl_keyfile": "/key",
    }
    assert RedisTarget.parse("redis://a").tls == {}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a", "unknown scheme 'http'"),
        ("redis+magic://a", "unknown scheme"),
        ("rediss+unix:///a", "unknown scheme"),
        ("redis:a", "unknown scheme"),
        ("redis://", "a host is missing"),
        ("redis://:6379", "a host is missing"),
        ("redis://a:0", "port must be 1 to 65535, got '0'"),
        ("redis://a:65536", "port must be 1 to 65535"),
        ("redis://a:b", "port must be a number, got 'b'"),
        ("redis://::1:6379", "write an IPv6 address as"),
        ("redis://a/b", "db must be a number, got 'b'"),
        ("redis://a/1/2", "unexpected path"),
        ("redis://a,b", "several hosts need"),
        ("redis+sentinel://a", "name of the primary is missing"),
        ("redis+sentinel://a/main/0/1", "unexpected path"),
        ("redis+cluster://a/1", "unexpected path"),
        ("redis+unix://run/x", "socket must be absolute"),
        ("redis+unix:///x?db=-1", "db must be a number"),
        ("redis://a?ssl_ca_path=/x", "unknown option 'ssl_ca_path'"),
        ("redis://a?timeout=1", "unknown option 'timeout'"),
    ],
)
def test_a_bad_url_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RedisTarget.parse(url)
