"""Writes the texts that are made from the declarations of options.

These are the tables of options in ``docs/operations.md`` and the ``Args`` of the docstrings of
`Client` and `Server`. ``python -m tests.option_texts`` writes them; a test compares.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rap.client.config import ClientConfig
from rap.options import DeclaredOption, Options, declared_options
from rap.server.config import ServerConfig

ROOT = Path(__file__).parents[1]
PAGE = "operations.md"
WIDTH = 100
TOPICS = {
    "authentication.md": "authentication",
    "blocking.md": "blocking functions",
    "calls.md#retries": "retries",
    "discovery.md": "discovery",
    "discovery.md#subsetting": "subsetting",
    "discovery.md#zones": "zones",
    "functions.md": "functions",
    "middleware.md": "middleware",
    "operations.md#draining": "draining",
}


class Text(NamedTuple):
    """A part of a file that is made from declarations.

    Args:
        path: The file, relative to the root of the repository.
        part: What is replaced, between the two groups of what is kept.
        new: What is to stand there.
    """

    path: str
    part: re.Pattern[str]
    new: str

    def apply(self, content: str) -> str:
        """Return the content of the file with this part made new."""
        made, count = self.part.subn(lambda it: it[1] + self.new + it[2], content)
        assert count == 1, f"{self.path} has {count} places for {self.part.pattern}"
        return made


def texts() -> Iterator[Text]:
    """Yield every text that is made."""
    for config, owner, module in (
        (ServerConfig, "Server", "rap/server/server.py"),
        (ClientConfig, "Client", "rap/client/client.py"),
    ):
        mark = f"options of {owner}"
        part = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
        yield Text(f"docs/{PAGE}", part, table(config))
        docstring = re.compile(
            rf'(class {owner}:\n    """.*?\n    Args:\n).*?(\n    [A-Z]\w+:)', re.DOTALL
        )
        yield Text(module, docstring, arguments(config))


def table(config: type[Options]) -> str:
    """Return the table of the options of a class, for the documentation."""
    rows = ["| option | default | unit | bounds | |", "| --- | --- | --- | --- | --- |"]
    rows += [row(declared) for declared in declared_options(config)]
    return "\n".join([*rows, ""])


def row(declared: DeclaredOption) -> str:
    """Return the row of one option."""
    option = declared.option
    text = option.text
    if option.see:
        page = option.see.removeprefix(PAGE)
        text += f" See [{TOPICS[option.see]}]({page})."
    cells = (f"`{declared.name}`", f"`{declared.default!r}`", option.unit, option.bounds, text)
    return "| " + " | ".join(cells) + " |"


def arguments(config: type[Options]) -> str:
    """Return the entries of a docstring, each with default, bounds and text."""
    return "".join(f"{entry(declared)}\n" for declared in declared_options(config))


def entry(declared: DeclaredOption) -> str:
    """Return the entry of one option."""
    option = declared.option
    bounds = f", {option.bounds}" if option.bounds else ""
    text = f"{declared.name}: {option.text} Default {default_of(declared)}{bounds}."
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * 8,
        subsequent_indent=" " * 12,
        break_on_hyphens=False,
    )


def default_of(declared: DeclaredOption) -> str:
    """Return the default of an option, with its unit if it is a number."""
    default = declared.default
    if isinstance(default, bool) or not isinstance(default, int | float):
        return repr(default)
    unit = declared.option.unit
    return f"{default:,}" + (f" {unit}" if unit and unit != "share" else "")


def main() -> None:
    """Write every text into its file."""
    for text in texts():
        path = ROOT / text.path
        path.write_text(text.apply(path.read_text()))


if __name__ == "__main__":
    main()
