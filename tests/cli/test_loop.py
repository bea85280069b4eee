"""Which event loop programs run on."""

import asyncio
import sys

import pytest

from rap.cli.runtime import loop_factory


def test_auto_is_uvloop_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    factory = loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)


def test_asyncio_is_asked_for_by_name() -> None:
    assert loop_factory("asyncio") is None


def test_without_uvloop_auto_is_asyncio_and_uvloop_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory("auto") is None
    with pytest.raises(ImportError, match=r"rap\[fast\]"):
        loop_factory("uvloop")


def test_an_unknown_loop_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, asyncio, uvloop, got 'trio'"):
        loop_factory("trio")
