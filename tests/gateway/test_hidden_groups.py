"""A filter sees the canonical name of a group, so that no other spelling passes it."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from rap.call import canonical_group, method_path, split_method
from rap.channel import Channel
from rap.client import Client
from rap.client.method import Method
from rap.gateway import create_app
from tests.client.threaded import serving

ran: list[str] = []


async def secret() -> str:
    ran.append("secret")
    return "secret"


async def shout(channel: Channel) -> None:
    ran.append("shout")


SPELLINGS = [
    None,
    "",
    "default",
    "/default",
    "default/",
    "//default",
    "./default",
    " default",
    "default\0",
    "DEFAULT",
    "d\N{CYRILLIC SMALL LETTER IE}fault",
    "\N{FULLWIDTH LATIN SMALL LETTER D}efault",
    "public/../default",
    "/",
]


@pytest.fixture(scope="module", params=[["default"], [""]])
def http(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with serving(secret, shout) as server:
        server.register(secret, "open", "public")
        app = create_app("", Client(server.addresses), group_filter=request.param)
        with TestClient(app) as http:
            yield http


@pytest.mark.parametrize("name", ["secret", "default/secret", "/secret", "../default/secret"])
@pytest.mark.parametrize("group", SPELLINGS)
def test_no_spelling_of_a_hidden_group_passes_the_filter(
    http: TestClient, group: str | None, name: str
) -> None:
    body: dict[str, Any] = {"group": group, "func_name": name}
    ran.clear()
    assert http.post("/normal", json=body).status_code == 404
    assert http.post("/normal", json={"func_name": name}).status_code == 404
    for path in (f"/call/{group or ''}/{name}", f"/call/{quote(group or '', safe='')}/{name}"):
        for headers in ({}, {"accept": "text/event-stream"}):
            answer = http.post(path.replace("\0", "%00"), json={}, headers=headers)
            assert answer.status_code in (404, 405), path
    with http.websocket_connect("/channel") as socket:
        socket.send_json({**body, "func_name": name.replace("secret", "shout")})
        assert socket.receive_json()["code"] == 404
    assert not ran


@pytest.mark.parametrize("name", ["secret", "it's", 'a"b', "a\nb", "\u202e"])
def test_a_hidden_group_looks_like_one_that_does_not_exist(http: TestClient, name: str) -> None:
    answers = [
        http.post("/normal", json={"group": group, "func_name": name}).json()
        for group in ("default", "nowhere")
    ]
    answers[1]["msg"] = answers[1]["msg"].replace("/nowhere/", "/default/")
    assert answers[0] == answers[1]


def test_a_function_of_another_group_is_called(http: TestClient) -> None:
    answer = http.post("/normal", json={"group": "public", "func_name": "open"})
    assert answer.json() == {"code": 0, "data": "secret"}


@pytest.mark.parametrize("group_filter", ["default", [None], [b"default"], [3]])
def test_a_filter_is_a_collection_of_names(group_filter: Any) -> None:
    with pytest.raises(ValueError, match="group_filter must be a collection of names"):
        create_app("", Client("localhost:1"), group_filter=group_filter)


@pytest.mark.parametrize("group", [None, "", "default"])
def test_a_group_has_one_name(group: str | None) -> None:
    assert canonical_group(group) == "default"
    assert method_path(group, "f") == "/default/f"
    assert split_method(Method("f", group, None, timeout=None).path) == ("default", "f")


@pytest.mark.parametrize("text", ["1e308", "1e306", "9" * 308, "1e-320", "4294967.296"])
def test_an_absurd_timeout_is_a_long_or_short_one(text: str) -> None:
    with serving(secret) as server, TestClient(create_app("", Client(server.addresses))) as http:
        for path in ("/normal", "/call/default/secret"):
            body = {"func_name": "secret"} if path == "/normal" else {}
            answer = http.post(path, json=body, headers={"rap-timeout": text})
            assert answer.status_code in (200, 504), answer.text


@pytest.mark.parametrize("text", ["inf", "nan", "-1", "0", "1e309", "1_0x", "", "9" * 400])
def test_what_is_no_timeout_is_a_bad_request(text: str) -> None:
    with serving(secret) as server, TestClient(create_app("", Client(server.addresses))) as http:
        answer = http.post("/normal", json={"func_name": "secret"}, headers={"rap-timeout": text})
        assert answer.status_code == 400
