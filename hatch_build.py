"""What the metadata of a build derives from the address of the project.

The links of README.md are relative, so that they work in a checkout and in a fork. On an index they
lead nowhere. With an address, the links of the long description are absolute, and the metadata
lists the addresses of the project. Without one, a link is its text, and an image is left out.

The address comes from the environment variable RAP_PROJECT_URL, which a workflow sets to the
repository that it runs in, or else from `url` in `tool.hatch.metadata.hooks.custom`.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# An image or a link to a file: `[text](target)`. Absolute targets and those in the page stay.
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#)([^()\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


class ProjectAddress(MetadataHookInterface):
    """Adds the long description and the addresses of the project."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set what `dynamic` in pyproject.toml lists."""
        url = os.environ.get("RAP_PROJECT_URL") or self.config.get("url", "")
        url = url.rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        ref = f"v{_version(self.root)}"
        metadata["readme"] = {"content-type": "text/markdown", "text": describe(text, url, ref)}
        metadata["urls"] = addresses(url, ref)


def describe(text: str, url: str, ref: str) -> str:
    """Return a page of the project without relative links.

    Args:
        text: The page, in Markdown.
        url: Address of the repository; empty if there is none.
        ref: The tag whose files are meant.
    """

    def replaced(link: re.Match[str]) -> str:
        mark, said, target = link.groups()
        if not url:
            return "" if mark else said
        return f"{mark}[{said}]({url}/{'raw' if mark else 'blob'}/{ref}/{target})"

    parts = _FENCE.split(text)  # code stays as it is
    parts[::2] = [_LINK.sub(replaced, part) for part in parts[::2]]
    return "".join(parts)


def addresses(url: str, ref: str) -> dict[str, str]:
    """Return the addresses of the project by their labels; none without the repository's."""
    if not url:
        return {}
    pages = f"{url}/blob/{ref}"
    return {
        "Homepage": url,
        "Documentation": f"{pages}/docs/get-started.md",
        "Changelog": f"{pages}/CHANGELOG.md",
        "Source": url,
        "Issues": f"{url}/issues",
    }


def _version(root: str) -> str:
    found = re.search(r'^__version__ = "(.*)"$', Path(root, "rap/__init__.py").read_text(), re.M)
    assert found is not None
    return found[1]
