"""Processors load by name; what needs an extra says so, and what does not loads without it."""

import subprocess
import sys
from pathlib import Path

import pytest

import rap.client.processor
import rap.server.processor
from rap.processor.lazy import Lazy, loader

ROOT = Path(__file__).parents[2]
WITHOUT_CRYPTO = """
import sys
sys.modules["Crypto"] = None
import rap.client.processor, rap.server.processor
from rap.client.processor import BaseProcessor, CompressProcessor
from rap.server.processor import BaseProcessor, CompressProcessor
for module in ("client", "server"):
    try:
        exec(f"from rap.{module}.processor import CryptoProcessor")
    except ImportError as error:
        print(error)
"""


def test_without_the_extra_only_the_name_that_needs_it_is_missing() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_CRYPTO]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    line = "CryptoProcessor needs the extra crypto: install rap[crypto]\n"
    assert ran.stdout == line * 2


@pytest.mark.parametrize("side", [rap.client.processor, rap.server.processor])
def test_a_name_that_nobody_has_is_an_attribute_error(side: object) -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        side.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_two_sides_have_their_own_crypto_processor() -> None:
    assert rap.client.processor.CryptoProcessor.__name__ == "ClientCryptoProcessor"
    assert rap.server.processor.CryptoProcessor.__name__ == "ServerCryptoProcessor"
    assert rap.client.processor.BaseProcessor is rap.server.processor.BaseProcessor


def test_a_module_of_rap_that_is_missing_is_not_blamed_on_an_extra() -> None:
    load = loader("here", {"Thing": Lazy("rap.processor.nothing", "Thing", "crypto")})
    with pytest.raises(ModuleNotFoundError, match=r"rap\.processor\.nothing"):
        load("Thing")
