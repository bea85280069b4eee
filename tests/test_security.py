"""What docs/security.md promises: limits are the defaults there are, tests that it names exist."""

import ast
import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rap.client.config import ClientConfig
from rap.gateway import create_app
from rap.options import Options, declared_options
from rap.processor.compress import CompressProcessor
from rap.server.config import ServerConfig
from rap.server.middleware import ConnLimitMiddleware, IpMaxConnMiddleware
from rap.server.processor import CryptoProcessor
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS
from rap.wire.frames import MAX_META

PAGE = (Path(__file__).parents[1] / "docs" / "security.md").read_text()
TABLE = PAGE.partition("\n## Limits\n")[2].partition("\n## ")[0]
NAMED = re.findall(r"`(\w+)\((\w+)=(.+?)\)`", TABLE)
MADE: dict[str, Callable[..., object]] = {
    "CompressProcessor": CompressProcessor,
    "ConnLimitMiddleware": ConnLimitMiddleware,
    "CryptoProcessor": CryptoProcessor,
    "IpMaxConnMiddleware": IpMaxConnMiddleware,
    "create_app": create_app,
}
CONFIGS: dict[str, type[Options]] = {"Server": ServerConfig, "Client": ClientConfig}


def default_of(kind: str, option: str) -> object:
    if kind in CONFIGS:
        found = {each.name: each.default for each in declared_options(CONFIGS[kind])}
        return found[option]
    return inspect.signature(MADE[kind]).parameters[option].default


@pytest.mark.parametrize(("kind", "option", "value"), NAMED)
def test_a_limit_has_the_default_that_the_page_says(kind: str, option: str, value: str) -> None:
    assert ast.literal_eval(value) == default_of(kind, option)


def test_the_page_names_many_limits() -> None:
    assert len(NAMED) > 15


@pytest.mark.parametrize(
    "text",
    [
        f"levels of a body, {MAX_DEPTH} of a response",
        f"values of a body, {MAX_ELEMENTS:,} of a response",
        f"bytes, {MAX_META:,} of a response, unique",
    ],
)
def test_a_limit_that_is_no_option_is_what_the_page_says(text: str) -> None:
    assert text in TABLE


# Who may attack, and which tests show what stops them.

ROOT = Path(__file__).parents[1]
THREATS = PAGE.partition("\n## Threat model\n")[2].partition("\n## ")[0]
HOLDINGS = PAGE.partition("\n## What one peer can hold\n")[2].partition("\n## ")[0]
TEST = re.compile(r"`(test_\w+)`")


def rows_of(text: str) -> list[str]:
    """Return the rows of all tables of a text, without their heads."""
    tables = re.findall(r"^\|.*\n\|[ -|]+\n((?:\|.*\n)+)", text, re.M)
    return [row for table in tables for row in table.splitlines()]


@functools.cache
def names_of_tests() -> frozenset[str]:
    paths = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("integration/test_*.py")]
    defined = re.compile(r"^(?:async )?def (test_\w+)", re.M)
    return frozenset(name for path in paths for name in defined.findall(path.read_text()))


@pytest.mark.parametrize("name", sorted(set(TEST.findall(PAGE))))
def test_a_test_that_the_page_names_exists(name: str) -> None:
    assert name in names_of_tests()


def test_each_threat_names_a_test() -> None:
    rows = rows_of(THREATS)
    assert len(rows) > 50
    assert [row for row in rows if not TEST.search(row)] == []


@pytest.mark.parametrize(
    "who",
    [
        "A peer without a token",
        "A peer with a token",
        "A browser, or any HTTP client of the gateway",
        "A server that a client calls",
        "Someone who writes to the registry",
        "Someone who reads the registry",
        "Someone on the network",
        "A neighbour on the host",
        "The operator",
    ],
)
def test_everybody_who_may_attack_has_rows(who: str) -> None:
    part = THREATS.partition(f"\n### {who}\n")[2].partition("\n### ")[0]
    assert len(rows_of(part)) >= 2


def test_what_a_peer_can_hold_is_shown_by_tests() -> None:
    table = HOLDINGS.partition("\n### ")[0]
    rows = rows_of(table)
    assert [row.split("|")[1].strip().partition(",")[0] for row in rows] == [
        "connections",
        "bytes",
        "places",
        "time",
        "the page with metrics and health",
    ]
    assert [row for row in rows if not TEST.search(row)] == []


MIB = 2**20
HELD = [
    ("2,048 without a Hello in all (`max_handshakes`)", "Server", "max_handshakes", 2048),
    ("200 new ones per second from one address", "Server", "max_connects", 200),
    ("(ten times `max_token_failures`)", "Server", "max_token_failures", 10),
    ("16,384 calls on each connection (`max_streams`)", "Server", "max_streams", 16384),
    ("5 s (`handshake_timeout`)", "Server", "handshake_timeout", 5),
    ("30 minutes (`max_connection_age`", "Server", "max_connection_age", 30 * 60),
    ("10 minutes more (`max_connection_grace`)", "Server", "max_connection_grace", 10 * 60),
    ("1,024 WebSockets (`max_sockets`)", "create_app", "max_sockets", 1024),
    ("1 MiB for each request and message (`max_body`)", "create_app", "max_body", MIB),
    ("from one address (`max_per_address`)", "create_app", "max_per_address", 128),
    ("1,024 streams of all (`max_open_streams`)", "create_app", "max_open_streams", 1024),
    ("30 s to send a body (`body_timeout`)", "create_app", "body_timeout", 30),
    ("| 1 MiB (`max_frame`) | 9 s (`timeout`) |", "Server", "max_frame", MIB),
    ("1 MiB (`max_frame`) | 9 s (`timeout`)", "Server", "timeout", 9),
    ("8 MiB (`connection_window`)", "Server", "connection_window", 8 * MIB),
    ("(`stall_timeout`)", "Server", "stall_timeout", 10),
    ("64 MiB (`max_backlog`)", "Server", "max_backlog", 64 * MIB),
    ("20 minutes without a call (`keep_alive`)", "Server", "keep_alive", 20 * 60),
]


@pytest.mark.parametrize(("text", "kind", "option", "value"), HELD)
def test_what_a_peer_can_hold_is_what_the_options_say(
    text: str, kind: str, option: str, value: float
) -> None:
    assert text in HOLDINGS
    assert default_of(kind, option) == value


def test_the_policy_for_reports_links_to_the_page() -> None:
    policy = (ROOT / "SECURITY.md").read_text()
    anchors = {
        re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
        for head in re.findall(r"^##+ (.*)", PAGE, re.M)
    }
    links = re.findall(r"docs/security\.md#([\w-]+)", policy)
    assert links
    assert set(links) <= anchors
