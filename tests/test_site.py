"""The site is whole: each page is in its navigation, and each link leads to a heading that exists.

`make docs` checks the same while it builds the site; these tests need none of its tools.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import rap
import rap.errors
import rap.testing
from rap.cli.app import COMMANDS
from website import commands
from website.pages import ELSEWHERE, Tree, is_local, links, relative, target

ROOT = Path(__file__).parents[1]
TREE = Tree(ROOT)
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
HEADING = re.compile(r"^#+ (.*?) *$", re.MULTILINE)
FENCED = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)


def nav() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    return re.findall(r"^ +- (?:.*: )?(\S+\.md)$", text, re.MULTILINE)


def anchors_of(path: str) -> set[str]:
    """Return the anchors of the headings of a page, as the site and the repository make them."""
    text = FENCED.sub("", (ROOT / path).read_text())
    found: set[str] = set()
    for heading in HEADING.findall(text):
        words = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        found.add("#" + re.sub(r"\s", "-", words))
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    pages = [TREE.page_of(path) for path in [*DOCS, *ELSEWHERE]]
    assert sorted(nav()) == sorted([*pages, commands.PAGE])


@pytest.mark.parametrize("path", [*DOCS, *ELSEWHERE])
def test_a_link_leads_to_a_heading_that_exists(path: str) -> None:
    wrong: list[str] = []
    for link, anchor in links((ROOT / path).read_text()):
        if link and not is_local(link):
            continue
        file = target(path, link) if link else path
        exists = (ROOT / file).exists()
        if not exists or (anchor and file.endswith(".md") and anchor not in anchors_of(file)):
            wrong.append(link + anchor)
    assert not wrong, f"{path} has links that lead nowhere: {wrong}"


@pytest.mark.parametrize(
    ("path", "link", "page", "made"),
    [
        ("README.md", "docs/calls.md", "index.md", "calls.md"),
        ("README.md", "rap/wire/PROTOCOL.md", "index.md", "reference/protocol.md"),
        ("docs/cli.md", "../README.md", "cli.md", "index.md"),
        ("docs/cli.md", "calls.md", "cli.md", "calls.md"),
        ("docs/tutorial/one.md", "../cli.md", "tutorial/one.md", "../cli.md"),
        ("docs/cli.md", "../k8s/check", "cli.md", "source/k8s/check.md"),
        ("rap/wire/PROTOCOL.md", "../../docs/cli.md", "reference/protocol.md", "../cli.md"),
    ],
)
def test_a_link_to_a_file_is_one_to_its_page(path: str, link: str, page: str, made: str) -> None:
    assert TREE.page_of(path) == page
    assert TREE.file_of(page) == path
    assert TREE.rewrite(page, f"[a]({link}#b)") == f"[a]({made}#b)"
    assert relative(TREE.page_of(target(path, link)), page) == made


def test_code_is_left_alone_when_links_are_rewritten() -> None:
    text = "```python server\n[a](../README.md)\n```\n[a](../README.md)\n"
    made = "```python\n[a](../README.md)\n```\n[a](index.md)\n"
    assert TREE.rewrite("cli.md", text) == made


@pytest.mark.parametrize(
    ("fence", "made"),
    [
        ("python server", "python"),
        ("python", "python"),
        ("bash", "bash"),
        ("mermaid", "mermaid"),
    ],
)
def test_how_a_block_is_tested_is_not_shown(fence: str, made: str) -> None:
    assert TREE.rewrite("cli.md", f"```{fence}\n```\n") == f"```{made}\n```\n"


def test_a_bar_in_the_code_of_a_table_is_shown_without_its_backslash() -> None:
    row = r"| `a` | `int \| <b>` | [a \| b](calls.md) |"
    made = r"| `a` | <code>int &#124; &lt;b&gt;</code> | [a \| b](calls.md) |"
    assert TREE.rewrite("cli.md", row) == made
    assert TREE.rewrite("cli.md", r"`a \| b`") == r"`a \| b`"


def test_each_file_that_a_page_links_to_is_shown() -> None:
    pages = dict(TREE.pages())
    shown = pages["source/prometheus/rules.yml.md"]
    assert "\n# prometheus/rules.yml\n\n~~~~yaml\n" in shown
    assert (ROOT / "prometheus/rules.yml").read_text().rstrip() in shown


def test_the_reference_lists_each_command_with_its_options() -> None:
    page = commands.commands_page()
    sections = set(re.findall(r"^## `rap ([\w-]+)`$", page, re.MULTILINE))
    assert sections == {name for name, entry in COMMANDS.items() if entry.help}
    assert "| `-n, --calls INTEGER RANGE` | Number of calls to make. &#91;x>=1] |" in page
    assert "JSON\\|NAME" not in page
    assert "\n    " not in page
    assert "| `--help`" not in page


def referred(path: Path) -> list[tuple[str, list[str]]]:
    """Return the objects that a page of the reference describes, and the members it selects."""
    blocks = re.split(r"^::: ", path.read_text(), flags=re.MULTILINE)[1:]
    members = [re.findall(r"^ {8}- (\w+)$", block, re.MULTILINE) for block in blocks]
    return [(block.split("\n", 1)[0], names) for block, names in zip(blocks, members, strict=True)]


REFERRED = [
    (name, members)
    for path in sorted((ROOT / "docs/reference").glob("*.md"))
    for name, members in referred(path)
]


def public_name(name: str) -> object:
    module, _, rest = name.rpartition(".")
    try:
        return getattr(import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(public_name(module), rest)


@pytest.mark.parametrize(("name", "members"), REFERRED)
def test_what_the_reference_describes_exists(name: str, members: list[str]) -> None:
    found = public_name(name)
    assert inspect.getdoc(found)
    assert [each for each in members if not hasattr(found, each)] == []


def test_the_reference_describes_every_public_name() -> None:
    described = {name.rpartition(".")[2] for name, _ in REFERRED}
    described |= {error for error in dir(rap) if error in rap.errors.__all__}
    assert {*rap.__all__, *rap.testing.__all__} - described == {"__version__"}
