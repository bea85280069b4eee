"""The site is whole: each page is in its navigation, and each link leads to a heading that exists.

`make docs` checks the same while it builds the site; these tests need none of its tools.
"""

import re
from pathlib import Path

import pytest

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
    assert sorted(nav()) == sorted(pages)


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


def test_each_file_that_a_page_links_to_is_shown() -> None:
    pages = dict(TREE.pages())
    shown = pages["source/prometheus/rules.yml.md"]
    assert shown.startswith("# prometheus/rules.yml\n\n~~~~yaml\n")
    assert (ROOT / "prometheus/rules.yml").read_text().rstrip() in shown
