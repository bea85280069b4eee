"""What `mkdocs build` calls while it builds the site; mkdocs.yml names this file.

Nothing here asks the network: the script that draws the diagrams is copied from a package.
"""

from importlib.metadata import files as files_of
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from website import commands
from website.pages import SOURCE, Tree

TREE = Tree(Path(__file__).parents[1])
MERMAID = "assets/javascripts/mermaid.js"
DIAGRAM = '<pre class="mermaid">'
# How the search ranks pages, relative to others: those that say how to do something come first.
RANKS = {
    "tutorial/": 1.5,
    "how-to/": 1.5,
    "calls.md": 1.5,
    "reference/": 0.05,
    "architecture.md": 0.3,
    "changelog.md": 0.3,
    "chaos.md": 0.3,
    "contributing.md": 0.3,
    "performance.md": 0.01,  # else "per" finds its title first
    SOURCE: 0.2,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and the script that draws the diagrams."""
    for page, text in TREE.pages():
        in_nav = InclusionLevel.NOT_IN_NAV if page.startswith(SOURCE) else InclusionLevel.INCLUDED
        files.append(File.generated(config, page, content=text, inclusion=in_nav))
    files.append(File.generated(config, commands.PAGE, content=commands.commands_page()))
    files.append(File.generated(config, MERMAID, abs_src_path=mermaid()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages; rank the page."""
    place = page.file.src_uri
    rank = next((rank for start, rank in RANKS.items() if place.startswith(start)), 1)
    page.meta["search"] = {"boost": rank, **page.meta.get("search", {})}
    return TREE.rewrite(page.file.src_uri, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Load the script that draws diagrams on pages that have one; the search leaves them out."""
    if DIAGRAM not in html:
        return html
    html = html.replace(DIAGRAM, DIAGRAM.replace(">", " data-search-exclude>"))
    return f'{html}\n<script src="{get_relative_url(MERMAID, page.url)}"></script>'


def mermaid() -> str:
    """Return the path of the script that draws diagrams."""
    found = [each for each in files_of("mermaidx") or [] if each.match("assets/mermaid.js")]
    if not found:
        raise FileNotFoundError(
            "the package mermaidx has no assets/mermaid.js: see website/assets.txt"
        )
    return str(found[0].locate())
