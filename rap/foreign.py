"""Texts that were written by others, made safe for a log, an error and a terminal.

What a peer, a registry or a certificate says may hold line breaks, with which it would forge lines
of a log; escape sequences, with which it would control a terminal; marks that reverse the order in
which a text is read; and a megabyte of anything.
"""

import reprlib

__all__ = ["indented", "one_line", "printable", "repr_of", "shortened"]

_MOST = 200
_MOST_ARGS = 8


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


def shortened(text: str, most: int) -> str:
    """Return a text without its middle, if it has more than `most` characters.

    What says how many characters are left out is added to those.
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


def repr_of(error: BaseException, most: int) -> str:
    """Return ``repr(error)`` with long arguments shortened to about `most` characters each.

    Args:
        error: An exception. If its class has its own ``__repr__``, that is called, and what it
            returns is shortened.
        most: So many characters.
    """
    if type(error).__repr__ is not BaseException.__repr__:
        return shortened(repr(error), most)
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    args = ", ".join(short.repr(each) for each in error.args[:_MOST_ARGS])
    more = ", …" if len(error.args) > _MOST_ARGS else ""
    return f"{type(error).__name__}({args}{more})"


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
    # One step for each character that occurs, not for each one of the text.
    table = {
        ord(each): each.encode("unicode_escape").decode()
        for each in {*text}
        if not (each.isprintable() or each in kept)
    }
    return text.translate(table)
