"""The allocator's settings: freed memory is not mapped and cleared again."""

import platform
import subprocess
import sys

import pytest

from rap.cli.runtime import keep_freed_memory

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


def faults(*, keep: bool) -> int:
    """Return the page faults of a process that makes large blocks again and again."""
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_blocks_cost_page_faults_only_once() -> None:
    assert faults(keep=True) < faults(keep=False) / 4


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.cli.runtime.ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
