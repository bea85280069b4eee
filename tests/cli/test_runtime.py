"""The event loop and the allocator of programs."""

import asyncio
import platform
import subprocess
import sys

import pytest

from rap.cli.runtime import keep_freed_memory, loop_factory

PROGRAM = """
import resource
from rap.cli.runtime import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def blocks():
    return [b"x" * (8 << 20) for _ in range(4)]
blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_auto_is_uvloop_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    factory = loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)


def test_asyncio_is_its_own_default_loop() -> None:
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


def faults(*, keep: bool) -> int:
    """Return the page faults of a process that makes large blocks again and again."""
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_blocks_cost_page_faults_only_once() -> None:
    assert faults(keep=True) < faults(keep=False) / 4


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
