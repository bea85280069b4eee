"""How pages of the repository become pages of the site.

A page is written for the repository: it links to files by their path there, and a Python block may
tell a test how to run it. `Tree` finds the page of the site for each file, and rewrites a page for
the site. Files outside docs/ that a page links to become pages too.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path

DOCS = "docs/"
# Pages that live outside docs/, and where they stand on the site.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
    "rap/wire/PROTOCOL.md": "reference/protocol.md",
}
# Any other file that a page links to is shown on a page of its own in this folder.
SOURCE = "source/"
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
LANGUAGES = {
    ".json": "json",
    ".md": "markdown",
    ".py": "python",
    ".sh": "bash",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
LINK = re.compile(r"(\]\(|\]: )([^)\s#]*)(#[^)\s]*)?")
FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
ROLE = re.compile(r"^python +\w+$")


class Tree:
    """The repository, seen as a site.

    Args:
        root: The folder of the repository.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def page_of(self, path: str) -> str:
        """Return the path on the site of a file or folder of the repository."""
        if path.startswith(DOCS):
            return path.removeprefix(DOCS)
        if path in ELSEWHERE:
            return ELSEWHERE[path]
        if path.endswith((".png", ".svg")):
            return path
        return f"{SOURCE}{path}.md"

    def file_of(self, page: str) -> str:
        """Return the path in the repository of a page of the site."""
        for path, place in ELSEWHERE.items():
            if place == page:
                return path
        if page.startswith(SOURCE):
            return page.removeprefix(SOURCE).removesuffix(".md")
        return DOCS + page

    def pages(self) -> Iterator[tuple[str, str]]:
        """Yield each page that is not in docs/: its path on the site, and its text."""
        for path, page in ELSEWHERE.items():
            yield page, (self.root / path).read_text()
        for path in sorted(self._sources()):
            yield self.page_of(path), self._source_page(path)

    def rewrite(self, page: str, text: str) -> str:
        """Return the text of a page as it stands on the site."""
        path = self.file_of(page)
        if page.startswith(SOURCE):
            return text

        def replace(match: re.Match[str]) -> str:
            head, link, anchor = match[1], match[2], match[3] or ""
            if not is_local(link):
                return match[0]
            return head + relative(self.page_of(target(path, link)), page) + anchor

        return rewrite_lines(text, lambda line: with_bars(LINK.sub(replace, line)), site_fence)

    def _sources(self) -> set[str]:
        """Return the files and folders that pages link to and that are no page yet."""
        found: set[str] = set()
        paths = [each.relative_to(self.root).as_posix() for each in self.root.glob("docs/**/*.md")]
        for path in [*ELSEWHERE, *paths]:
            for link, _ in links((self.root / path).read_text()):
                if is_local(link):
                    file = target(path, link)
                    if self.page_of(file).startswith(SOURCE):
                        found.add(file)
        for folder in [each for each in found if (self.root / each).is_dir()]:
            found.update(f"{folder}/{name}" for name in self._files_in(folder))
        return found

    def _files_in(self, folder: str) -> list[str]:
        names = [each.name for each in (self.root / folder).iterdir() if each.is_file()]
        return sorted(name for name in names if not name.startswith("."))

    def _source_page(self, path: str) -> str:
        file = self.root / path
        if file.is_dir():
            names = self._files_in(path)
            rows = [f"- [{name}]({posixpath.basename(path)}/{name}.md)" for name in names]
            return "\n".join([f"{UNSEARCHED}# {path}/", "", *rows, ""])
        language = LANGUAGES.get(file.suffix, "text")
        return f"{UNSEARCHED}# {path}\n\n~~~~{language}\n{file.read_text().rstrip()}\n~~~~\n"


def links(text: str) -> list[tuple[str, str]]:
    """Return the links of a page, each as its target and its anchor with ``#``."""
    found: list[tuple[str, str]] = []

    def collect(line: str) -> str:
        found.extend((match[2], match[3] or "") for match in LINK.finditer(line))
        return line

    rewrite_lines(text, collect, str)
    return found


def is_local(link: str) -> bool:
    """Return whether a link leads to a file of the repository."""
    return bool(link) and "://" not in link and not link.startswith("mailto:")


def target(path: str, link: str) -> str:
    """Return the path in the repository that a link in a file leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def relative(page: str, origin: str) -> str:
    """Return the link from one page of the site to another."""
    return posixpath.relpath(page, posixpath.dirname(origin) or ".")


def rewrite_lines(text: str, line: Callable[[str], str], fence: Callable[[str], str]) -> str:
    """Return a page with its text lines and its opening fences changed, its code untouched."""
    made: list[str] = []
    closing = ""
    for each in text.split("\n"):
        match = FENCE.match(each)
        if closing:
            made.append(each)
            if match and match[2].startswith(closing) and not match[3].strip():
                closing = ""
        elif match:
            closing = match[2]
            made.append(match[1] + match[2] + fence(match[3]))
        else:
            made.append(line(each))
    return "\n".join(made)


def with_bars(line: str) -> str:
    """Return a line in whose code an escaped bar of a table is a bar.

    In a table, `a \\| b` is code with a bar for the repository, but with a backslash for the site.
    """
    if not line.startswith("|") or "\\|" not in line:
        return line
    return CODE.sub(lambda match: as_html(match[1]) if "\\|" in match[1] else match[0], line)


def as_html(code: str) -> str:
    """Return the code of a cell of a table as HTML."""
    return f"<code>{escape(code.replace(chr(92) + '|', '|')).replace('|', '&#124;')}</code>"


def site_fence(info: str) -> str:
    """Return the line of a fence without the word that tells the test how to run the block."""
    return ROLE.sub("python", info)
