"""The pages of several processes as one: each sample gets a label that says whose it is.

It works on the text, so histograms, gauges and exemplars of any metric come through as they are.
"""

import re
from collections.abc import Mapping

__all__ = ["merge"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_END = "# EOF"


class _Family:
    """The lines of one metric: what is said of it, by word, and its samples."""

    def __init__(self) -> None:
        self.head: dict[str, str] = {}
        self.samples: list[str] = []


def merge(label: str, pages: Mapping[str, str], own: str = "") -> str:
    """Return one page of many, in the format that they have.

    Args:
        label: Name of the label; where a sample has that already, it becomes ``exported_…``.
        pages: By value of the label.
        own: A page whose samples stay as they are.
    """
    families = {"": _Family()}  # the first one: samples of which nothing was said
    texts = [(own, ""), *((text, f'{label}="{value}"') for value, text in pages.items())]
    for text, pair in texts:
        family = families[""]
        for line in text.splitlines():
            if line.startswith("#"):
                match line.split(" ", 3):
                    case ["#", "HELP" | "TYPE" | "UNIT" as word, name, *_]:
                        family = families.setdefault(name, _Family())
                        family.head.setdefault(word, line)
            elif line:
                family.samples.append(_labelled(line, label, pair) if pair else line)
    lines = [
        line for family in families.values() for line in (*family.head.values(), *family.samples)
    ]
    if any(text.rstrip().endswith(_END) for text, _ in texts):
        lines.append(_END)
    return "".join(f"{line}\n" for line in lines)


def _labelled(line: str, label: str, pair: str) -> str:
    name = _NAME.match(line)
    if name is None:
        return line
    rest = line[name.end() :]
    if not rest.startswith("{"):
        return f"{name[0]}{{{pair}}}{rest}"
    if rest.startswith("{}"):
        return f"{name[0]}{{{pair}}}{rest[2:]}"
    rest = re.sub(rf'([{{,]){label}="', rf'\1exported_{label}="', rest, count=1)
    return f"{name[0]}{{{pair},{rest[1:]}"
