"""The messages that docs/troubleshooting.md explains are those of the source."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
BLOCK = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MESSAGES = [line for block in BLOCK.findall(PAGE) for line in block.splitlines()]
PLACE = re.compile(r"%[-.\d]*[sdrfg]")


def literals(path: Path) -> Iterator[str]:
    """Yield the texts of a module, without what is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from PLACE.split(node.value)


@cache
def source() -> str:
    return "\n".join(text for path in (ROOT / "rap").rglob("*.py") for text in literals(path))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_one_of_the_source(message: str) -> None:
    parts = [part.strip() for part in message.split("…")]
    said = [part for part in parts if re.search(r"\w{3}", part)]
    assert said
    assert [part for part in said if part not in source()] == []


def test_the_page_explains_many_messages() -> None:
    assert len(MESSAGES) > 45
    assert len(MESSAGES) == len(set(MESSAGES))
