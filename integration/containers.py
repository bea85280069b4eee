"""A stage of containers: Redis and the programs of the example, each in one, on a network."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from integration.choice import REDIS_IMAGE
from integration.stage import HTTP_PORT, METRICS_PORT, RAP_PORT, Instance, Stage
from tests.ports import free_port
from tests.redis_server import wait_until

__all__ = ["Containers"]

testcontainers_config.ryuk_disabled = True  # a stage removes what it has started by itself

REDIS, INNER_URL = "redis", "redis://redis:6379/0"
HARD = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}


class Container(Instance):
    """A program in a container of its own."""

    def __init__(self, name: str, container: DockerContainer) -> None:
        super().__init__(name)
        container.start()
        self._wrapped = container.get_wrapped_container()

    def output(self) -> str:
        text: bytes = self._wrapped.logs()
        return text.decode()

    def terminate(self) -> None:
        self._wrapped.kill("SIGTERM")

    def kill(self) -> None:
        self._wrapped.kill("SIGKILL")

    def freeze(self) -> None:
        self._wrapped.kill("SIGSTOP")

    def start(self) -> None:
        """Start it again."""
        self._wrapped.start()

    def status(self) -> int | None:
        self._wrapped.reload()
        state = self._wrapped.attrs["State"]
        return None if state["Running"] else int(state["ExitCode"])

    def published(self, port: int) -> str:
        """Return the address on loopback that leads to a port of it."""
        self._wrapped.reload()
        bound = self._wrapped.attrs["NetworkSettings"]["Ports"][f"{port}/tcp"][0]
        return f"127.0.0.1:{bound['HostPort']}"

    def remove(self) -> None:
        """End and remove it."""
        self._wrapped.remove(force=True, v=True)


class Containers(Stage):
    """Containers that find Redis by its name, and publish their ports on loopback only.

    Tests reach services at the addresses of the registry, those of the containers, which a Linux
    host routes to.
    """

    listen = f"0.0.0.0:{RAP_PORT}"
    http_options = ("--host", "0.0.0.0", "--port", str(HTTP_PORT))

    def __init__(self, image: str) -> None:
        self._image = image
        self._network = Network().create()
        self._port = free_port()
        self._started: list[Container] = []
        redis = DockerContainer(REDIS_IMAGE).with_network(self._network)
        redis.with_network_aliases(REDIS)
        publish(redis, {6379: self._port})
        redis.with_command(
            ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""]
        )
        self._redis = Container(REDIS, redis)
        self._started.append(self._redis)
        self._wait_for_redis(1)

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def stop_redis(self) -> None:
        self._redis.kill()
        self._redis.wait()

    def start_redis(self) -> None:
        times = self._redis.output().count("Ready to accept")
        self._redis.start()
        self._wait_for_redis(times + 1)

    def run(self, name: str, arguments: tuple[str, ...], files: Path, **environ: str) -> Container:
        container = DockerContainer(self._image).with_command(["python", *arguments])
        container.with_network(self._network).with_network_aliases(word_of(name))
        container.with_kwargs(user=f"{os.getuid()}", **HARD)
        container.with_volume_mapping(str(files), str(files), "ro")
        publish(container, dict.fromkeys((RAP_PORT, HTTP_PORT, METRICS_PORT)))
        for key, value in {"APP_REGISTRY": INNER_URL, **environ}.items():
            container.with_env(key, value.replace(self.redis_url, INNER_URL))
        started = Container(name, container)
        self._started.append(started)
        return started

    def without_registry(self, instances: Sequence[Instance]) -> str:
        (word,) = {word_of(instance.name) for instance in instances}
        return f"dns://{word}:{RAP_PORT}"

    def address_of(self, instance: Instance, port: int = RAP_PORT) -> str:
        assert isinstance(instance, Container)
        return instance.published(port)

    def close(self) -> None:
        for container in self._started:
            container.remove()
        self._network.remove()

    def _wait_for_redis(self, times: int) -> None:
        wait_until(lambda: self._redis.output().count("Ready to accept") >= times, "starting Redis")


def word_of(name: str) -> str:
    """Return the name in DNS that a container shares with others of its kind."""
    return name.partition("-")[0]


def publish(container: DockerContainer, ports: dict[int, int | None]) -> None:
    """Publish ports on loopback only; `None` is any free one."""
    on_loopback: Any = {inner: ("127.0.0.1", outer) for inner, outer in ports.items()}
    container.ports = on_loopback  # its annotation knows no addresses; the engine's client does
