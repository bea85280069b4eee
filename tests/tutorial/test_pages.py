"""The tutorial works: who types and runs what its pages say gets what they show."""

import difflib
import re
import shutil
from pathlib import Path

import pytest

from tests.redis_fixtures import redis_single
from tests.redis_server import RedisServer
from tests.tutorial.pages import PAGES, ROOT, File, page_titles, pages, steps_of
from tests.tutorial.reader import Reader

__all__ = ["redis_single"]

SHOP = ROOT / "examples" / "shop"


def files_before(page: Path) -> dict[str, str]:
    """Return the files that a reader has who comes to a page."""
    found: dict[str, str] = {}
    for each in pages()[: pages().index(page)]:
        found |= files_of(each)
    return found


def files_of(page: Path) -> dict[str, str]:
    return {step.path: step.text for step in steps_of(page.read_text()) if isinstance(step, File)}


def test_the_first_page_lists_all_others() -> None:
    assert {"index.md", *page_titles()} == {path.name for path in PAGES.glob("*.md")}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_the_steps_of_a_page_work(page: Path, tmp_path: Path, redis_single: RedisServer) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    redis_single.command("FLUSHALL")  # the servers that the page before has left
    with Reader(folder, {"SHOP_REGISTRY": redis_single.url}) as reader:
        for path, text in files_before(page).items():
            reader.take(File(0, path, text))
        for step in steps_of(page.read_text()):
            reader.take(step)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_highlights_the_lines_that_it_changes(page: Path) -> None:
    has = files_before(page)
    for step in steps_of(page.read_text()):
        if not isinstance(step, File):
            continue
        former, has[step.path] = has.get(step.path), step.text
        if former is not None:
            assert step.marked == new_lines(former, step.text), f"line {step.line}"


def new_lines(former: str, text: str) -> str:
    """Return the numbers of the lines that are new, as in ``2-4 7``."""
    matcher = difflib.SequenceMatcher(None, former.splitlines(), text.splitlines(), autojunk=False)
    spans = [(a + 1, b) for kind, _, _, a, b in matcher.get_opcodes() if kind != "equal" and a < b]
    return " ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in spans)


def test_the_example_is_what_the_reader_ends_with() -> None:
    has = {path: text for page in pages() for path, text in files_of(page).items()}
    ignored = shutil.ignore_patterns("__pycache__", ".*", "*.db*")
    names = {str(path.relative_to(SHOP)) for path in SHOP.rglob("*") if path.is_file()}
    names = {name for name in names if not ignored("", name.split("/"))} - {"README.md"}
    assert names == has.keys()
    for name in names:
        assert (SHOP / name).read_text() == has[name], name


def test_each_page_leads_to_the_next() -> None:
    titles = page_titles()
    for name, following in zip(["index.md", *titles], [*titles], strict=False):
        last = (PAGES / name).read_text().rstrip().splitlines()[-1]
        assert re.search(rf"\]\({re.escape(following)}\)", last), name
