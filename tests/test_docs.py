"""The pages under docs/ tell the truth: their programs run, their options are the real ones."""

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rap.client import Client
from rap.client.config import ClientConfig
from rap.server import Server
from rap.server.config import ServerConfig
from tests.test_readme import Block, Example, blocks_of, examples_of, run

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
ROW = re.compile(r"^\| `(\w+)` \| `(.*?)` \|([^|]*)\|([^|]*)\|([^|]*)\|[^|]+\|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


class Option(NamedTuple):
    """A row of a table of options."""

    name: str
    default: str
    unit: str
    least: str
    most: str

    def __str__(self) -> str:
        return self.name


class Kind(NamedTuple):
    """A class whose options a section lists."""

    make: Callable[..., object]
    config: type
    options: dict[str, Option]


def options_of(section: str) -> dict[str, Option]:
    text = PAGES["operations.md"].partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return {match[1]: Option(*map(str.strip, match.groups())) for match in ROW.finditer(text)}


SERVER = Kind(Server, ServerConfig, options_of("Options of Server"))
CLIENT = Kind(Client, ClientConfig, options_of("Options of Client"))
# A connection's window is never less than a stream's, so both bounds need the other option too.
BESIDE = {
    ("connection_window", "least"): {"stream_window": 65536},
    ("stream_window", "most"): {"connection_window": 1073741824},
}


def defaults_of(kind: Kind) -> dict[str, Any]:
    """Return every keyword option that there is, and its default."""
    found = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.make).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    for each in fields(kind.config):
        if each.default is not MISSING:
            found[each.name] = each.default
    return found


@pytest.mark.parametrize("kind", [SERVER, CLIENT], ids=["server", "client"])
def test_every_option_is_listed_with_its_default(kind: Kind) -> None:
    listed = {option.name: option.default for option in kind.options.values()}
    assert listed == {name: repr(value) for name, value in defaults_of(kind).items()}


def cases(limit: str) -> list[Any]:
    return [
        pytest.param(kind, option, id=f"{name} {option}")
        for name, kind in (("server", SERVER), ("client", CLIENT))
        for option in kind.options.values()
        if getattr(option, limit)
    ]


def beyond(option: Option, limit: str) -> float:
    """Return a value just past a bound."""
    bound = getattr(option, limit)
    if bound == ">0":
        return 0
    step = 0.01 if "." in bound else 1
    return at(option, limit) + (step if limit == "most" else -step)


def at(option: Option, limit: str) -> float:
    """Return the last value that is allowed."""
    bound = getattr(option, limit)
    if bound == ">0":
        return 0.001
    return float(bound) if "." in bound else int(bound)


@pytest.mark.parametrize("limit", ["least", "most"])
def test_there_are_bounds_to_check(limit: str) -> None:
    assert len(cases(limit)) > 8


@pytest.mark.parametrize(("kind", "option"), cases("least"))
def test_the_least_value_is_taken_and_less_is_refused(kind: Kind, option: Option) -> None:
    check_bound(kind, option, "least")


@pytest.mark.parametrize(("kind", "option"), cases("most"))
def test_the_most_value_is_taken_and_more_is_refused(kind: Kind, option: Option) -> None:
    check_bound(kind, option, "most")


def check_bound(kind: Kind, option: Option, limit: str) -> None:
    beside = BESIDE.get((option.name, limit), {})
    kind.make(**{option.name: at(option, limit), **beside})
    with pytest.raises(ValueError, match=option.name):
        kind.make(**{option.name: beyond(option, limit)})


@pytest.mark.parametrize("kind", [SERVER, CLIENT], ids=["server", "client"])
def test_every_number_has_a_unit_and_a_least_value(kind: Kind) -> None:
    numbers = {
        name
        for name, value in defaults_of(kind).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers <= {it.name for it in kind.options.values() if it.unit and it.least}


@pytest.mark.parametrize(
    ("kind", "option"), [case for case in cases("least") if not case.values[1].most]
)
def test_there_is_no_most_value_but_what_is_listed(kind: Kind, option: Option) -> None:
    kind.make(**{option.name: 10**15})


@pytest.mark.parametrize("kind", [SERVER, CLIENT], ids=["server", "client"])
def test_what_is_listed_is_what_the_docstrings_explain(kind: Kind) -> None:
    text = f"{inspect.getdoc(kind.make)}\n{inspect.getdoc(kind.config)}"
    explained = set(re.findall(r"^    ([a-z]\w*): ", text, re.MULTILINE))
    assert explained - {"host", "addresses", "host_list", "options"} == set(kind.options)


EXAMPLES = [
    pytest.param(example, id=f"{page} {example}")
    for page, text in PAGES.items()
    for example in examples_of(blocks_of(text))
]
BLOCKS = [
    pytest.param(block, id=f"{page} line {block.line}")
    for page, text in PAGES.items()
    for block in blocks_of(text)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_docs_runs(example: Example, tmp_path: Path) -> None:
    run(example, tmp_path)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_docs_is_python(block: Block) -> None:
    compile(block.code, "docs", "exec")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in PAGES)])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    targets = [target for target in LINK.findall(path.read_text()) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []
