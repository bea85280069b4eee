"""Contract tests: a server against an earlier description of it."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from rap.schema.compatibility import Compatibility, breaks, compare_all, read_descriptions
from rap.schema.reflection import describe
from rap.server.server import Server

__all__ = ["check_compatible"]


def check_compatible(
    old_description: str | PathLike[str] | Any,
    new_server: Server,
    *,
    order: str = "servers-first",
) -> list[Compatibility]:
    """Check that clients of an earlier description of a server work with the server as it is now.

    Args:
        old_description: Path of a file that ``rap describe --json`` has written; or its content: a
            description, or a list of them.
        new_server: The server, which need not run.
        order: What is updated first: ``servers-first`` (old clients call new servers),
            ``clients-first`` (new clients call old servers), or ``any`` (both).

    Returns:
        What has become of each function.

    Raises:
        AssertionError: Calls would fail; the message names the functions and says why.
        ValueError: It is not a description.
    """
    if isinstance(old_description, str | PathLike):
        path = Path(old_description)
        if not path.exists():
            text = f"{path} does not exist; write it with `rap describe --json > {path.name}`"
            raise FileNotFoundError(text)
        old_description = json.loads(path.read_text())
    new = [describe(handler) for handler in new_server.handlers]
    found = compare_all(read_descriptions(old_description), new)
    broken = breaks(found, order)
    if broken:
        raise AssertionError("calls would fail:\n" + "\n".join(broken))
    return found
