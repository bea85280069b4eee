"""Processor time and memory of processes and their children, from /proc; Linux only."""

import os
from pathlib import Path

__all__ = ["cpu_seconds", "peak_bytes", "resident_bytes", "tree"]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """Return the ids of a process and its running descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the user and system time of processes and their descendants, within 10 ms."""
    ticks = 0
    for pid in pids:
        for each in tree(pid):
            fields = _read(each, "stat").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / _TICKS


def resident_bytes(pids: list[int]) -> int:
    """Return the resident memory of processes and their descendants."""
    pages = 0
    for pid in pids:
        for each in tree(pid):
            fields = _read(each, "statm").split()
            pages += int(fields[1]) if fields else 0
    return pages * _PAGE


def peak_bytes(pids: list[int]) -> int:
    """Return the peak memory of processes and their descendants."""
    kib = 0
    for pid in pids:
        for each in tree(pid):
            status = _read(each, "status").partition("VmHWM:")[2].split()
            kib += int(status[0]) if status else 0
    return kib * 1024


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""  # it ended meanwhile
