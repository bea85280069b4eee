"""Writes the texts that are made from the declarations of options.

These are the tables of options in the documentation, and the ``Args`` of docstrings.
``python -m tests.option_texts`` writes them; a test compares.
"""

import re
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rap.client.config import CallOptions, ClientConfig, StubOptions
from rap.gateway.config import GatewayConfig
from rap.options import DeclaredOption, Options, declared_options
from rap.server.config import HandlerOptions, ServerConfig

ROOT = Path(__file__).parents[1]
WIDTH = 100
TOPICS = {
    "schema-evolution.md#rolling-updates": "rolling updates",
    "authentication.md": "authentication",
    "observability.md#access-log": "access log",
    "authentication.md#identities-of-servers": "identities of servers",
    "authentication.md#revocation-lists": "revocation lists",
    "blocking.md": "blocking functions",
    "calls.md#hedged-requests": "hedged requests",
    "calls.md#retries": "retries",
    "calls.md#waiting-for-a-server": "waiting for a server",
    "discovery.md#outlier-detection": "outlier detection",
    "discovery.md": "discovery",
    "discovery.md#signed-registrations": "signed registrations",
    "discovery.md#subsetting": "subsetting",
    "discovery.md#zones": "zones",
    "functions.md": "functions",
    "middleware.md": "middleware",
    "operations.md#draining": "draining",
    "operations.md#overload": "overload",
    "operations.md#what-clients-do": "what clients do",
    "security.md": "security",
    "security.md#private-functions": "private functions",
}
# Each table: the class that declares the options, whose they are, and the page.
TABLES: list[tuple[type[Options], str, str]] = [
    (ServerConfig, "Server", "operations.md"),
    (ClientConfig, "Client", "operations.md"),
    (HandlerOptions, "Server.register", "calls.md"),
    (StubOptions, "Client.register", "calls.md"),
    (CallOptions, "Client.raw_call", "calls.md"),
    (GatewayConfig, "create_app", "gateway.md"),
]
# Each docstring: the class that declares the options, whose they are, and the module.
DOCSTRINGS: list[tuple[type[Options], str, str]] = [
    (ServerConfig, "Server", "rap/server/server.py"),
    (ClientConfig, "Client", "rap/client/client.py"),
    (HandlerOptions, "Server.register", "rap/server/server.py"),
    (StubOptions, "Client.register", "rap/client/client.py"),
    (StubOptions, "bind", "rap/client/interface.py"),
    (StubOptions, "inject", "rap/client/inject.py"),
    (CallOptions, "Client.raw_call", "rap/client/client.py"),
    (GatewayConfig, "create_app", "rap/gateway/app.py"),
]


class Text(NamedTuple):
    """A part of a file that is made from declarations.

    Args:
        path: The file, relative to the root of the repository.
        part: What is replaced, between the two groups of what is kept.
        make: Returns what is to stand there, from what stands there.
    """

    path: str
    part: re.Pattern[str]
    make: Callable[[str], str]

    def apply(self, content: str) -> str:
        """Return the content of the file with this part made new."""
        made, count = self.part.subn(lambda it: it[1] + self.make(it[2]) + it[3], content)
        assert count == 1, f"{self.path} has {count} places for {self.part.pattern}"
        return made


def texts() -> Iterator[Text]:
    """Yield every text that is made."""
    for config, owner, page in TABLES:
        part = re.compile(rf"(<!-- options of {owner} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
        yield Text(f"docs/{page}", part, partial(table, config, page))
    for config, owner, module in DOCSTRINGS:
        yield docstring(config, owner, module)


def docstring(config: type[Options], owner: str, module: str) -> Text:
    """Return the ``Args`` in the docstring of a class, a method or a function.

    Overloads of a method have no docstring.
    """
    *outer, name = owner.split(".")
    is_class = not outer and name[0].isupper()
    indent = 4 * len(outer)
    head = rf"^ {{{indent}}}{'class' if is_class else '(?:async )?def'} {name}\b"
    inside = ".*?" if is_class else r"(?:(?!^ *(?:async )?def ).)*?"
    section = rf"^ {{{indent + 4}}}"
    pattern = rf"({head}{inside}{section}Args:\n)(.*?)(\n{section}[A-Z]\w+:)"
    make = partial(arguments if is_class else parameters, config, indent + 8)
    return Text(module, re.compile(pattern, re.DOTALL | re.MULTILINE), make)


def table(config: type[Options], page: str, _: str) -> str:
    """Return the table of the options of a class, for a page of the documentation."""
    rows = ["| option | default | unit | bounds | |", "| --- | --- | --- | --- | --- |"]
    rows += [row(declared, page) for declared in declared_options(config)]
    return "\n".join([*rows, ""])


def row(declared: DeclaredOption, page: str) -> str:
    """Return the row of one option."""
    option = declared.option
    text = option.text
    if option.see:
        text += f" See [{TOPICS[option.see]}]({option.see.removeprefix(page)})."
    cells = (f"`{declared.name}`", f"`{declared.default!r}`", option.unit, option.bounds, text)
    return "| " + " | ".join(cells) + " |"


def arguments(config: type[Options], indent: int, _: str) -> str:
    """Return the entries of a constructor, one for each option."""
    return "".join(f"{entry(each, indent)}\n" for each in declared_options(config))


def parameters(config: type[Options], indent: int, old: str) -> str:
    """Return the entries of a function: those of options are made, the others stay."""
    made = {each.name: entry(each, indent) for each in declared_options(config)}
    start = rf"^ {{{indent}}}(?=\w+: )"
    found = [each.rstrip() for each in re.split(start, old, flags=re.MULTILINE) if each.strip()]
    entries = [made.get(each.partition(":")[0], " " * indent + each) for each in found]
    return "".join(f"{each}\n" for each in entries)


def entry(declared: DeclaredOption, indent: int) -> str:
    """Return the entry of one option, with its text, default and bounds."""
    option = declared.option
    bounds = f", {option.bounds}" if option.bounds else ""
    text = f"{declared.name}: {option.text} Default {default_of(declared)}{bounds}."
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
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
