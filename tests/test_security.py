"""The limits that docs/security.md names are the defaults there are."""

import ast
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
