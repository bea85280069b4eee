"""Where the Redis and the programs of a test run: what a stage is, and processes as one."""

import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.redis_server import RedisServer, wait_until

__all__ = [
    "CALC",
    "HTTP",
    "HTTP_PORT",
    "LOAD",
    "METRICS_PORT",
    "ORDERS",
    "PATIENCE",
    "RAP_PORT",
    "ROOT",
    "Instance",
    "Machine",
    "Stage",
]

ROOT = Path(__file__).parents[1]
RAP_PORT, HTTP_PORT, METRICS_PORT = 9000, 8000, 9100  # in a container
# What programs print of the address that they listen on.
SAID = {
    RAP_PORT: r"rap: listening on (?:tls://)?([\d.]+:\d+)",
    HTTP_PORT: r"running on http://([\d.]+:\d+)",
    METRICS_PORT: r"metrics at http://([\d.]+:\d+)",
}
PATIENCE = 30.0  # seconds after which what a test waits for is not coming
CALC = ("-m", "rap.cli", "serve", "integration.app.calc:make")
ORDERS = ("-m", "rap.cli", "serve", "integration.app.orders:make")
HTTP = ("-m", "uvicorn", "--factory", "integration.app.http:make")
LOAD = ("-m", "integration.app.load")


class Instance(ABC):
    """One running program of the example."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def output(self) -> str:
        """Return what it has printed so far."""

    @abstractmethod
    def terminate(self) -> None:
        """Send SIGTERM."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL."""

    @abstractmethod
    def freeze(self) -> None:
        """Send SIGSTOP: its connections stay open and silent."""

    @abstractmethod
    def status(self) -> int | None:
        """Return its exit status, or `None` while it runs."""

    def wait(self) -> int:
        """Return its exit status when it has ended."""
        wait_until(lambda: self.status() is not None, f"end of {self.name}", PATIENCE)
        status = self.status()
        assert status is not None
        return status

    def wait_for(self, text: str) -> None:
        """Return when it has printed a text."""

        def printed() -> bool:
            if text in self.output():
                return True
            if self.status() is not None:
                raise AssertionError(f"{self.name} ended without {text!r}: {self.output()}")
            return False

        wait_until(printed, f"{text!r} of {self.name}", PATIENCE)


class Stage(ABC):
    """A Redis, and the programs of the example beside it."""

    @property
    @abstractmethod
    def redis_url(self) -> str:
        """The Redis, as tests and programs see it."""

    @abstractmethod
    def stop_redis(self) -> None:
        """Kill the Redis; it forgets everything."""

    @abstractmethod
    def start_redis(self) -> None:
        """Start it again, empty, at the same address."""

    @abstractmethod
    def run(self, name: str, arguments: tuple[str, ...], files: Path, **environ: str) -> Instance:
        """Start Python with these arguments; `files` is readable to it under the same path."""

    @abstractmethod
    def close(self) -> None:
        """End everything."""

    def calc(self, name: str, files: Path, **environ: str) -> Instance:
        """Start an instance of ``calc``, and return when it listens."""
        environ = {"APP_LISTEN": self.listen, "APP_NAME": name, **environ}
        instance = self.run(name, CALC, files, **environ)
        instance.wait_for("rap: listening on")
        return instance

    @property
    @abstractmethod
    def listen(self) -> str:
        """Address for a service to listen on, which the registry makes known."""

    @property
    @abstractmethod
    def http_options(self) -> tuple[str, ...]:
        """Options of uvicorn: where to listen."""

    @abstractmethod
    def without_registry(self, instances: Sequence[Instance]) -> str:
        """Return what clients have for APP_REGISTRY to find these where nobody registers.

        Names of containers have to begin with one word and a dash.
        """

    @abstractmethod
    def address_of(self, instance: Instance, port: int = RAP_PORT) -> str:
        """Return the address on loopback of what listens, by the port it has in a container."""


class Process(Instance):
    """A program that is a process here."""

    def __init__(
        self, name: str, arguments: tuple[str, ...], log: Path, environ: Mapping[str, str]
    ) -> None:
        super().__init__(name)
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **environ},
            )

    def output(self) -> str:
        return self._log.read_text()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def status(self) -> int | None:
        return self._process.poll()


class Machine(Stage):
    """Everything as processes on loopback, on free ports."""

    listen = "127.0.0.1:0"
    http_options = ("--host", "127.0.0.1", "--port", "0")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._redis = RedisServer(directory / "redis").start()
        self._started: list[Process] = []

    @property
    def redis_url(self) -> str:
        return self._redis.url

    def stop_redis(self) -> None:
        self._redis.kill()

    def start_redis(self) -> None:
        self._redis.start()

    def run(self, name: str, arguments: tuple[str, ...], files: Path, **environ: str) -> Process:
        log = self._directory / f"{len(self._started)}-{name}.log"
        process = Process(name, arguments, log, {"APP_REGISTRY": self.redis_url, **environ})
        self._started.append(process)
        return process

    def without_registry(self, instances: Sequence[Instance]) -> str:
        return "static://" + ",".join(map(self.address_of, instances))

    def address_of(self, instance: Instance, port: int = RAP_PORT) -> str:
        found = re.search(SAID[port], instance.output())
        assert found is not None, instance.output()
        return found[1]

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        self._redis.kill()
