"""What `from rap import …` gives, and that ``import rap`` alone loads nothing."""

import subprocess
import sys

import pytest

import rap
import rap.client
import rap.errors
import rap.server

PROGRAM = """
import sys
before = set(sys.modules)
import rap
print(sorted(sys.modules.keys() - before))
from rap import Server
print("rap.server" in sys.modules, "rap.client" in sys.modules)
"""


def test_import_of_rap_alone_loads_nothing_else() -> None:
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == ["['rap']", "True False"]


def test_the_names_are_those_of_their_packages() -> None:
    assert rap.Client is rap.client.Client
    assert rap.SyncClient is rap.client.SyncClient
    assert rap.Session is rap.client.Session
    assert rap.Channel is rap.client.Channel is rap.server.Channel
    assert rap.Server is rap.server.Server
    assert rap.context is rap.server.context


def test_every_exception_class_and_the_codes_are_there() -> None:
    for name in rap.errors.__all__:
        value = getattr(rap.errors, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert getattr(rap, name) is value
    assert rap.Code is rap.errors.Code


def test_dir_lists_what_there_is() -> None:
    assert set(rap.__all__) <= set(dir(rap))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rap' has no attribute 'Nothing'"):
        rap.Nothing  # type: ignore[attr-defined]  # noqa: B018
