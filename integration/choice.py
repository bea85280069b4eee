"""Which stage tests run on, and why."""

import functools
import importlib.util
import os
import shutil
import subprocess
from typing import NamedTuple

__all__ = ["IMAGE", "REDIS_IMAGE", "Choice", "choose", "has_image"]

IMAGE = "rap-example:integration"
REDIS_IMAGE = "redis:7.4.10"


class Choice(NamedTuple):
    """The image to run in containers, or `None` for processes; and why."""

    image: str | None
    reason: str


@functools.cache
def choose() -> Choice:
    """Look what there is; ``RAP_STAGE`` decides where it is set.

    Raises:
        RuntimeError: Docker was asked for and is not there.
    """
    wish = os.environ.get("RAP_STAGE", "auto")
    if wish not in {"auto", "docker", "machine"}:
        raise RuntimeError(f"RAP_STAGE must be auto, docker or machine, got {wish!r}")
    if wish == "machine":
        return Choice(None, "processes, as RAP_STAGE says")
    lack = _lack()
    if lack is None:
        return Choice(IMAGE, f"containers of {IMAGE}")
    if wish == "docker":
        raise RuntimeError(f"RAP_STAGE=docker, but {lack}")
    return Choice(None, f"processes: {lack}")


def has_image(name: str) -> bool:
    """Return whether the engine has this image."""
    return not _fails("docker", "image", "inspect", name)


def _lack() -> str | None:
    """Return what is missing for containers."""
    if shutil.which("docker") is None:
        return "there is no docker"
    if _fails("docker", "info"):
        return "no Docker engine answers"
    if importlib.util.find_spec("testcontainers") is None:
        return "testcontainers is not installed"
    for image in (IMAGE, REDIS_IMAGE):
        if not has_image(image):
            return f"there is no image {image}"
    return None


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0
