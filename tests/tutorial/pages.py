"""The steps that a page of the tutorial asks its reader to take.

A fenced block with a file name as its title is a whole file. A block of kind ``console`` has
commands after ``$`` and what they print. With a title, such as ``Terminal 1``, its command keeps
running in that terminal, ``^C`` interrupts it, and a block without a command shows what it prints
later. Blocks of any other kind are not steps.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PAGES", "Command", "File", "Lines", "Step", "page_titles", "pages", "steps_of"]

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "tutorial"
FENCE = re.compile(r"^```(\w+)((?: +\w+=\"[^\"]*\")*) *\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(\w+)=\"([^\"]*)\"")


@dataclass(frozen=True)
class File:
    """A file to write."""

    line: int
    path: str
    text: str
    marked: str = ""  # the numbers of the lines that the page highlights


@dataclass(frozen=True)
class Command:
    """A command to run; ``^C`` interrupts what runs in its terminal."""

    line: int
    text: str
    terminal: str  # empty: the command ends by itself
    output: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lines:
    """What a terminal prints in the meantime."""

    line: int
    terminal: str
    output: list[str]


Step = File | Command | Lines


def page_titles() -> list[str]:
    """Return the names of the pages, in the order in which they are read."""
    return re.findall(
        r"^\d+\. \[.*?\]\((.*?\.md)\)", (PAGES / "index.md").read_text(), re.MULTILINE
    )


def pages() -> list[Path]:
    """Return the paths of the pages, in the order in which they are read."""
    return [PAGES / "index.md", *(PAGES / name for name in page_titles())]


def steps_of(markdown: str) -> Iterator[Step]:
    """Yield the steps of a page in their order."""
    for match in FENCE.finditer(markdown):
        line = markdown.count("\n", 0, match.start()) + 1
        kind, options, text = match[1], dict(OPTION.findall(match[2])), match[3]
        title = options.get("title", "")
        if kind == "console":
            yield from _commands(line, title, text)
        elif title:
            yield File(line, title, text, options.get("hl_lines", ""))


def _commands(line: int, terminal: str, text: str) -> Iterator[Command | Lines]:
    found: list[Command] = []
    before: list[str] = []
    for number, each in enumerate(text.splitlines(), line + 1):
        if each.startswith("$ "):
            found.append(Command(number, each[2:], terminal))
        elif each == "^C":
            found.append(Command(number, each, terminal))
        elif found:
            found[-1].output.append(each)
        else:
            before.append(each)
    if before:
        assert terminal, f"line {line}: output of no command"
        yield Lines(line, terminal, before)
    yield from found
