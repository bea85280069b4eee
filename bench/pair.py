"""One peer's processes: its servers on one core, its client on another."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from bench.adapter import HOST, Adapter, Setup

__all__ = ["ENVIRONMENT", "Pair", "PairError", "import_milliseconds", "pin"]

_START = 30.0  # seconds
_ANSWER = 20.0  # seconds beyond ten times what a workload may take
_STOP = 3.0  # seconds
_ROOT = Path(__file__).parents[1]

# The allocator keeps large blocks, for every peer alike; `rap.cli.runtime` says why. Here it is
# told in the environment, so that a process need not import anything of rap's for it.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


class PairError(Exception):
    """A process did not start or did not answer; the message names it."""


def pin(pid: int, place: int) -> None:
    """Keep a process on one core: 0 is for servers, 1 for clients; nothing on a single core."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[place % len(cores)]})


def _environment(adapter: Adapter, certificate: Path) -> dict[str, str]:
    paths = {"PYTHONPATH": str(_ROOT), "BENCH_CERTIFICATE": str(certificate)}
    environment = {**os.environ, **ENVIRONMENT, **paths, **adapter.environment}
    # Installed packages have their byte code; a checkout must be able to keep its own.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def import_milliseconds(adapter: Adapter, certificate: Path) -> float:
    """Return how long a fresh interpreter takes to import what a client needs.

    It runs twice, because the first import may have to compile.
    """
    _import(adapter, certificate)
    return _import(adapter, certificate)


def _import(adapter: Adapter, certificate: Path) -> float:
    code = (
        "import time; start = time.perf_counter()\n"
        f"import {', '.join(adapter.imports)}\n"
        "print((time.perf_counter() - start) * 1e3)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(adapter, certificate),
    )
    pin(process.pid, 1)
    output, _ = process.communicate(timeout=_START)
    return float(output.split()[-1])


class Pair:
    """Servers and a client of one peer; a context manager that ends them.

    Args:
        name: Name of the peer.
        adapter: Adapter of the peer.
        setup: Name of the setup of the servers.
        servers: Number of servers.
        certificate: Folder of the certificate.
        log: File to which the processes write.
    """

    def __init__(
        self,
        name: str,
        adapter: Adapter,
        setup: Setup,
        servers: int,
        certificate: Path,
        log: IO[str],
    ) -> None:
        self._what = f"{name} ({setup})"
        self._log = log
        self._environment = _environment(adapter, certificate)
        ports = _free_ports(servers)
        self._processes = [self._start(0, "bench.serve", name, str(port), setup) for port in ports]
        pids = [str(process.pid) for process in self._processes]
        self._client = self._start(
            1, "bench.client", name, setup, ",".join(map(str, ports)), ",".join(pids)
        )
        self._processes.append(self._client)

    def wait_until_ready(self) -> None:
        """Return when the servers have answered a call.

        Raises:
            PairError: They did not answer in time.
        """
        self._answer(_START)

    def ask(self, workload: str, seconds: float) -> dict[str, Any]:
        """Return the figures of a workload, or its error.

        Raises:
            PairError: The client no longer answers.
        """
        assert self._client.stdin is not None
        try:
            self._client.stdin.write(json.dumps({"workload": workload, "seconds": seconds}) + "\n")
            self._client.stdin.flush()
        except OSError as exc:
            raise PairError(f"{self._what}: the client is gone") from exc
        return self._answer(_ANSWER + 10 * seconds)

    def stop(self) -> None:
        """End all processes and their children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._processes:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
            for process in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_STOP)
        for pipe in (self._client.stdin, self._client.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, place: int, module: str, *args: str) -> subprocess.Popen[str]:
        talks = module == "bench.client"
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else self._log,
            stderr=self._log,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        pin(process.pid, place)
        return process

    def _answer(self, timeout: float) -> dict[str, Any]:
        pipe = self._client.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], timeout)[0]:
            raise PairError(f"{self._what}: no answer in {timeout:g} s")
        line = pipe.readline()
        if not line:
            raise PairError(f"{self._what}: the client ended; see the log")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _free_ports(count: int) -> list[int]:
    """Return free ports."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
