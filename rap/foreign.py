"""Texts that were written by others, made safe for a log, an error and a terminal.

What a peer, a registry or a certificate says may hold line breaks, with which it would forge lines
of a log; escape sequences, with which it would control a terminal; marks that reverse the order in
which a text is read; and a megabyte of anything.
"""

__all__ = ["indented", "one_line", "printable"]

_MOST = 200


def one_line(text: object, most: int = _MOST) -> str:
    r"""Return a text as one printable line.

    Line breaks and other white space become one space each. Every other character that is not
    printable is escaped, such as ``\x1b``.

    Args:
        text: A text, or an object such as an exception whose text is meant.
        most: Characters of the line. A longer one ends in ``…``.
    """
    try:
        line = str(text)
    except Exception:  # of a user's `__str__`
        line = f"{type(text).__name__}, which has no text"
    line = _escaped(" ".join(line[: 4 * most].split()), "")
    return line if len(line) <= most else line[: most - 1] + "…"


def printable(text: str) -> str:
    """Return a text that is safe to print; it keeps its line breaks and tabs."""
    return _escaped(text, "\n\t")


def indented(text: str) -> str:
    """Return a text that is safe to print, with its second and later lines indented.

    So none of its lines looks like the first line of another text, whoever has written it.
    """
    return printable(text).replace("\n", "\n  ")


def _escaped(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in kept else each.encode("unicode_escape").decode()
        for each in text
    )
