"""Pages of other origins, and posts that a page can send without asking, call no function."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient, WebSocketDenialResponse

from rap.client import Client
from rap.errors import PermissionDenied, Unauthenticated
from rap.gateway import create_app
from rap.server import Channel, Server
from tests.client.threaded import serving

ran: list[str] = []
BODY = '{"func_name": "record"}'
LINES = "application/x-ndjson"
PATHS = {"/normal": BODY, "/call/default/record": "{}"}


async def record() -> str:
    ran.append("record")
    return "done"


async def record_channel(channel: Channel) -> None:
    ran.append("channel")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(record, record_channel) as server:
        yield server


@contextmanager
def browsing(server: Server, **options: Any) -> Iterator[TestClient]:
    app = create_app("", Client(server.addresses), **options)
    with TestClient(app, base_url="http://gateway.example:8000") as http:
        ran.clear()
        yield http


def post(http: TestClient, headers: dict[str, str], path: str = "/normal") -> Any:
    """Post a call; the content type is JSON unless the headers have another one."""
    return http.post(
        path, content=PATHS[path], headers={"content-type": "application/json", **headers}
    )


def opens(http: TestClient, headers: dict[str, str]) -> int:
    """Return 101 if a channel can be opened, otherwise the status of the answer."""
    try:
        with http.websocket_connect("/channel", headers=headers) as socket:
            socket.send_json({"func_name": "record_channel"})
            assert socket.receive_json() == {"code": 0, "data": "accept"}
            return 101
    except WebSocketDenialResponse as response:
        answer: Any = response
        assert answer.json()["code"] == answer.status_code
        status: int = answer.status_code
        return status


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/plain;charset=utf-8",
        "text/plain; application/json",
        "text/plain, application/json",
        "application/json, text/plain",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; x=application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=application/json",
        "multipart/form-data; boundary=x; application/json",
        "application/jsonp",
        "application/json2",
        "xapplication/json",
        "text/json",
        "application/octet-stream",
        "application/msgpack",
        "application/xml",
        "*/*",
        "json",
    ],
)
def test_a_post_of_another_content_type_calls_nothing(server: Server, path: str, kind: str) -> None:
    with browsing(server) as http:
        answer = post(http, {"content-type": kind}, path)
        assert answer.status_code == answer.json()["code"] == 415
        assert answer.json()["msg"].startswith("the Content-Type must be one of application/json")
        assert not ran


@pytest.mark.parametrize("body", ["", "{}", BODY])
def test_a_post_without_a_content_type_calls_nothing(server: Server, body: str) -> None:
    with browsing(server) as http:
        for path in PATHS:
            for headers in ({}, {"accept": "text/event-stream"}):
                assert http.post(path, content=body, headers=headers).status_code == 415
        assert not ran


def test_a_post_with_two_content_types_calls_nothing(server: Server) -> None:
    with browsing(server) as http:
        for second in ("application/json", "text/plain"):
            headers = [("content-type", "application/json"), ("content-type", second)]
            answer = http.post("/normal", content=BODY, headers=headers)
            assert answer.status_code == 415
        assert not ran


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json;charset=utf-8",
        "APPLICATION/JSON",
        "application/a.b+json",
    ],
)
def test_a_post_of_json_calls_its_function(server: Server, kind: str) -> None:
    with browsing(server) as http:
        for path in PATHS:
            assert post(http, {"content-type": kind}, path).json()["data"] == "done"


def test_lines_are_accepted_only_where_a_path_names_the_function(server: Server) -> None:
    with browsing(server) as http:
        assert post(http, {"content-type": LINES}).status_code == 415
        assert LINES in post(http, {"content-type": "x/y"}, "/call/default/record").json()["msg"]
        assert not ran


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_only_posts_call_functions(server: Server, method: str) -> None:
    with browsing(server) as http:
        for path in PATHS:
            headers = {"content-type": "application/json", "x-http-method-override": "POST"}
            answer = http.request(method, path, content=PATHS[path], headers=headers)
            assert answer.status_code == 405
        query = {"func_name": "record", "_method": "POST"}
        assert http.get("/normal", params=query).status_code == 405
        assert not ran


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://gateway.example",
        "http://gateway.example:8001",
        "https://gateway.example",
        "http://gateway.example.evil.example:8000",
        "http://evil.example:8000",
        "http://evilgateway.example:8000",
        "http://sub.gateway.example:8000",
        "http://gateway.example:8000@evil.example",
        "http://user@gateway.example:8000",
        "http://gateway.example:8000/",
        "http://gateway.example:8000, http://evil.example",
        "http://gateway.example:8000 http://evil.example",
        "gateway.example:8000",
        "//gateway.example:8000",
        "file://gateway.example:8000",
        "chrome-extension://gateway.example:8000",
    ],
)
def test_a_page_of_another_origin_calls_nothing(server: Server, origin: str) -> None:
    with browsing(server) as http:
        for path in PATHS:
            answer = post(http, {"origin": origin}, path)
            assert answer.status_code == answer.json()["code"] == 403
            assert "access-control-allow-origin" not in answer.headers
        assert opens(http, {"origin": origin}) == 403
        assert not ran


def test_two_origins_are_none(server: Server) -> None:
    with browsing(server) as http:
        own = ("origin", "http://gateway.example:8000")
        headers = [("content-type", "application/json"), own]
        assert http.post("/normal", content=BODY, headers=headers).status_code == 200
        answer = http.post("/normal", content=BODY, headers=[*headers, own])
        assert answer.status_code == 403


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://gateway.example:8000", "gateway.example:8000"),
        ("https://gateway.example:8000", "gateway.example:8000"),  # a proxy ends TLS
        ("http://Gateway.Example:8000", "gateway.example:8000"),
        ("http://gateway.example", "gateway.example"),
        ("http://gateway.example", "gateway.example:80"),
        ("https://gateway.example", "gateway.example"),
        ("https://gateway.example", "gateway.example:443"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ],
)
def test_a_page_of_the_same_host_calls_functions(server: Server, origin: str, host: str) -> None:
    with browsing(server) as http:
        headers = {"origin": origin, "host": host}
        assert post(http, headers).json()["data"] == "done"
        assert opens(http, headers) == 101


def test_listed_origins_replace_the_same_host(server: Server) -> None:
    with browsing(server, allowed_origins=["https://app.example", "HTTP://b.example:80"]) as http:
        for origin in ("https://app.example", "https://app.example:443", "http://b.example"):
            assert post(http, {"origin": origin}).status_code == 200, origin
            assert opens(http, {"origin": origin}) == 101
        ran.clear()
        for origin in (
            "http://gateway.example:8000",
            "http://app.example",
            "https://app.example:8000",
            "https://b.example",
            "null",
        ):
            assert post(http, {"origin": origin}).status_code == 403, origin
            assert opens(http, {"origin": origin}) == 403
        assert not ran
        assert post(http, {}).status_code == 200  # it comes from no page
        assert opens(http, {}) == 101


def test_all_origins_may_be_allowed(server: Server) -> None:
    with browsing(server, allowed_origins=["*"]) as http:
        for origin in ("https://evil.example", "null"):
            assert post(http, {"origin": origin}).status_code == 200
            assert opens(http, {"origin": origin}) == 101
            assert post(http, {"origin": origin, "content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.example", 200),
        ("gateway.example:8000", 200),
        ("GATEWAY.example", 200),
        ("a.apps.example", 200),
        ("a.b.apps.example:1", 200),
        ("apps.example", 421),
        ("evil.example", 421),
        ("gateway.example.evil.example", 421),
        ("evilapps.example", 421),
        ("gateway.example@evil.example", 421),
        ("gateway.example:80:80", 421),
        ("gateway.example, evil.example", 421),
        ("127.0.0.1", 421),
        ("", 421),
    ],
)
def test_only_allowed_hosts_are_served(server: Server, host: str, status: int) -> None:
    with browsing(server, allowed_hosts=["Gateway.example", "*.apps.example"]) as http:
        for path in PATHS:
            assert post(http, {"host": host}, path).status_code == status
        assert opens(http, {"host": host}) == (101 if status == 200 else status)
        assert bool(ran) is (status == 200)


@pytest.mark.parametrize("path", ["/api/normal/", "/api/call/default/ping/", "/elsewhere", "/"])
def test_no_path_is_answered_for_another_host(server: Server, path: str) -> None:
    with browsing(server, allowed_hosts=["gateway.example"]) as http:
        headers = {"host": "evil.example"}
        answer = http.post(path, json={}, headers=headers, follow_redirects=False)
        assert answer.status_code == 421
        assert "location" not in answer.headers
        assert not ran


def test_a_preflight_of_another_host_is_not_answered(server: Server) -> None:
    options = {"cors": True, "allowed_origins": ["https://app.example"]}
    with browsing(server, allowed_hosts=["gateway.example"], **options) as http:
        headers = {**PREFLIGHT, "origin": "https://app.example"}
        for host, status in (("gateway.example", 200), ("evil.example", 421)):
            answer = http.options("/api/normal", headers={**headers, "host": host})
            assert answer.status_code == status


def test_a_name_that_was_rebound_to_the_gateway_is_no_allowed_host(server: Server) -> None:
    headers = {"host": "evil.example", "origin": "http://evil.example"}
    with browsing(server) as http:
        assert post(http, headers).status_code == 200  # this is why there is `allowed_hosts`
    with browsing(server, allowed_hosts=["gateway.example"]) as http:
        assert post(http, headers).status_code == 421
        assert opens(http, headers) == 421
        assert not ran


PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,rap-timeout,authorization",
}


def test_browsers_show_answers_to_allowed_origins_only_if_asked_to(server: Server) -> None:
    own, other = {"origin": "https://app.example"}, {"origin": "https://evil.example"}
    with browsing(server, allowed_origins=["https://app.example"]) as http:
        assert http.options("/normal", headers={**own, **PREFLIGHT}).status_code == 405
        assert "access-control-allow-origin" not in post(http, own).headers
    with browsing(server, allowed_origins=["https://app.example"], cors=True) as http:
        allowed = http.options("/normal", headers={**own, **PREFLIGHT})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        assert post(http, own).headers["access-control-allow-origin"] == "https://app.example"
        wrong = post(http, {**own, "content-type": "text/plain"})  # the page can read why
        assert wrong.status_code == 415
        assert wrong.headers["access-control-allow-origin"] == "https://app.example"
        ran.clear()
        refused = http.options("/normal", headers={**other, **PREFLIGHT})
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers
        answer = post(http, other)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert not ran


def test_cors_takes_the_arguments_of_its_middleware(server: Server) -> None:
    options = {"allow_credentials": True, "expose_headers": ["Rap-Header-unit"]}
    with browsing(server, allowed_origins=["https://app.example"], cors=options) as http:
        answer = post(http, {"origin": "https://app.example", "cookie": "a=b"})
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["access-control-expose-headers"] == "Rap-Header-unit"


def allow(connection: HTTPConnection) -> bool:
    return connection.headers.get("authorization") == "Bearer good"


async def allow_later(connection: HTTPConnection) -> bool:
    return allow(connection)


async def forbid(connection: HTTPConnection) -> bool:
    if not allow(connection):
        raise PermissionDenied("not you")
    return True


def challenge(connection: HTTPConnection) -> bool:
    if not allow(connection):
        raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Bearer"})
    return True


def unknown(connection: HTTPConnection) -> bool:
    if not allow(connection):
        raise Unauthenticated("no token")
    return True


@pytest.mark.parametrize(
    ("hook", "status", "text"),
    [
        (allow, 401, "the request is not authorized"),
        (allow_later, 401, "the request is not authorized"),
        (forbid, 403, "not you"),
        (challenge, 401, "who are you?"),
        (unknown, 401, "no token"),
    ],
)
def test_a_hook_decides_which_requests_are_served(
    server: Server, hook: Callable[[HTTPConnection], object], status: int, text: str
) -> None:
    good = {"authorization": "Bearer good"}
    with browsing(server, authorize=hook) as http:
        for path in PATHS:
            assert post(http, good, path).json()["data"] == "done"
        assert opens(http, good) == 101
        ran.clear()
        for headers in ({}, {"authorization": "Bearer bad"}):
            for path in PATHS:
                for accept in ("*/*", "text/event-stream"):
                    answer = post(http, {**headers, "accept": accept}, path)
                    assert (answer.status_code, answer.json()["msg"]) == (status, text)
            lines = {**headers, "content-type": LINES}
            assert post(http, lines, "/call/default/record").status_code == status
            assert opens(http, headers) == status
        assert not ran
    if hook is challenge:
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("verdict", [None, 1, 0, "", "alice", "False", [], {"user": 1}, object()])
def test_only_true_admits_a_request(server: Server, verdict: object) -> None:
    def answer(connection: HTTPConnection) -> object:
        return verdict

    async def answer_later(connection: HTTPConnection) -> object:
        return verdict

    for hook in (answer, answer_later, dict):
        with browsing(server, authorize=hook) as http:
            with pytest.raises(TypeError, match="authorize must return True or False"):
                post(http, {})
            with pytest.raises(TypeError, match="authorize must return True or False"):
                opens(http, {})
            assert not ran


@pytest.mark.parametrize("kind", [LookupError, ConnectionRefusedError, TimeoutError])
def test_a_hook_that_fails_admits_nothing_and_is_heard(
    server: Server, kind: type[Exception]
) -> None:
    def fail(connection: HTTPConnection) -> bool:
        raise kind("no database")

    with browsing(server, authorize=fail) as http:
        with pytest.raises(kind):
            post(http, {})
        with pytest.raises(kind):
            opens(http, {})
        assert not ran


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"allowed_origins": "https://a.example"}, "allowed_origins must be a collection"),
        ({"allowed_origins": [3]}, "allowed_origins must be a collection"),
        ({"allowed_origins": ["null"]}, "allowed_origins: an origin is .* got 'null'"),
        ({"allowed_origins": ["a.example"]}, "allowed_origins: an origin is"),
        ({"allowed_origins": ["https://a.example/"]}, "allowed_origins: an origin is"),
        ({"allowed_origins": ["https://*.example"]}, "allowed_origins: an origin is"),
        ({"allowed_hosts": "a.example"}, "allowed_hosts must be a collection"),
        ({"allowed_hosts": ["a.example:80"]}, "allowed_hosts: a host is"),
        ({"allowed_hosts": ["https://a.example"]}, "allowed_hosts: a host is"),
        ({"allowed_hosts": ["a.*.example"]}, "allowed_hosts: a host is"),
        ({"allowed_hosts": [""]}, "allowed_hosts: a host is"),
        ({"cors": True}, "cors needs allowed_origins"),
        ({"cors": "yes"}, "cors must be True, False or a mapping"),
        (
            {"allowed_origins": ["*"], "cors": {"allow_credentials": True}},
            "would let every page act for its users",
        ),
        ({"authorize": "token"}, "authorize must be a function"),
        ({"authorize": {"token"}}, "authorize must be a function"),
    ],
)
def test_an_option_that_would_open_the_gateway_by_mistake_is_refused(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        create_app("", Client("localhost:1"), **options)


def test_the_answers_to_refused_requests_name_no_inner_host(server: Server) -> None:
    with browsing(server, allowed_hosts=["inner.example"]) as http:
        assert "inner" not in json.dumps(post(http, {"host": "evil.example"}).json())
    with browsing(server, allowed_origins=["https://inner.example"]) as http:
        assert "inner" not in json.dumps(post(http, {"origin": "https://evil.example"}).json())
