"""Records what a command shows in a terminal as an animated SVG: `make recording`.

    python -m website.record OUTPUT.svg COMMAND [ARGUMENT ...]

The command runs in a terminal of 116 columns. The picture has each screen that it showed, at the
time at which it showed it, and ends with the last one. When it is loaded, the picture begins with
the first screen that shows a table. A reader who asks for less motion sees only the last one.
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import pyte

COLUMNS, ROWS = 116, 38
# A screen that stands for less time than this is not shown.
STEP = 0.5
# The fewest rows of a screen with which the picture begins.
ROWS_AT_FIRST = 6
# How long the last screen stands before the picture starts again.
REST = 6.0
WIDTH, HEIGHT, FONT = 8.4, 18, 14
EDGE = 12
COLOURS = {
    "default": "#d4d7dd",
    "black": "#5c6370",
    "red": "#f07178",
    "green": "#9ccc65",
    "brown": "#ffcb6b",
    "yellow": "#ffcb6b",
    "blue": "#82aaff",
    "magenta": "#c792ea",
    "cyan": "#6fd3e3",
    "white": "#ffffff",
}


class Style(NamedTuple):
    """How a character looks."""

    colour: str
    bold: bool


Row = tuple[tuple[Style, str], ...]


class Frame(NamedTuple):
    """A screen, and when it was shown, in seconds after the start."""

    at: float
    rows: tuple[Row, ...]


def record(command: list[str]) -> Iterator[Frame]:
    """Run a command in a terminal, and yield what it shows."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {' '.join([Path(command[0]).name, *command[1:]])}\r\n".encode())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    started = time.monotonic()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    shown = 0.0
    while data := read(ours):
        stream.feed(data)
        now = time.monotonic() - started
        if now - shown >= STEP:
            shown = now
            yield Frame(now, rows_of(screen))
    yield Frame(time.monotonic() - started, rows_of(screen))
    if process.wait():
        sys.exit(f"{command} ended with {process.returncode}")


def read(terminal: int) -> bytes:
    """Return what was written to a terminal, or nothing if its program has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def rows_of(screen: pyte.Screen) -> tuple[Row, ...]:
    """Return the rows of a screen, each as runs of characters that look the same."""
    rows = []
    for y in range(ROWS):
        cells = [screen.buffer[y][x] for x in range(COLUMNS)]
        runs = groupby(cells, lambda cell: Style(cell.fg, cell.bold))
        row = [(style, "".join(cell.data for cell in run)) for style, run in runs]
        while row and not row[-1][1].strip():
            row.pop()
        rows.append(tuple(row))
    return tuple(rows)


def picture(frames: list[Frame]) -> str:
    """Return the animation of some frames."""
    height = 1 + max(y for frame in frames for y, row in enumerate(frame.rows) if row)
    screen = height * HEIGHT + 2 * EDGE
    width = round(COLUMNS * WIDTH) + 2 * EDGE
    length = frames[-1].at + REST
    names: dict[Row, str] = {}
    film = []
    for number, frame in enumerate(frames):
        for y, row in enumerate(frame.rows):
            if row:
                name = names.setdefault(row, f"r{len(names)}")
                top = number * screen + EDGE + y * HEIGHT
                film.append(f'<use href="#{name}" x="{EDGE}" y="{top}"/>')
    frames[0] = frames[0]._replace(at=0.0)
    stops = "".join(
        f"{100 * frame.at / length:.2f}%{{{moved(number * screen)}}}"
        for number, frame in enumerate(frames)
    )
    full = (n for n, frame in enumerate(frames) if sum(map(bool, frame.rows)) >= ROWS_AT_FIRST)
    first = next(full, 0)
    last = moved((len(frames) - 1) * screen)
    rows = "".join(f'<g id="{name}">{drawn(row)}</g>\n' for row, name in names.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{screen}" '
        f'viewBox="0 0 {width} {screen}">\n<style>'
        f"text{{font:{FONT}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "white-space:pre}.b{font-weight:bold}"
        f"@keyframes film{{{stops}100%{{{last}}}}}"
        f".film{{{moved(first * screen)};"
        f"animation:film {length:.1f}s step-end -{frames[first].at:.1f}s infinite}}"
        f"@media (prefers-reduced-motion){{.film{{animation:none;{last}}}}}"
        f'</style>\n<rect width="100%" height="100%" rx="8" fill="#1e2129"/>\n'
        f'<defs>\n{rows}</defs>\n<g class="film">\n' + "\n".join(film) + "\n</g>\n</svg>\n"
    )


def moved(distance: int) -> str:
    """Return the rule that shows the screen at a distance from the top of the film."""
    return f"transform:translateY(-{distance}px)"


def drawn(row: Row) -> str:
    """Return the characters of a row, each run where it stands."""
    made, x = "", 0
    for style, text in row:
        if text.strip():
            start = x + len(text) - len(text.lstrip())
            words = text.strip()
            colour = COLOURS.get(style.colour) or f"#{style.colour}"
            bold = ' class="b"' if style.bold else ""
            made += (
                f'<text x="{start * WIDTH:.1f}" y="{FONT}" fill="{colour}"{bold} '
                f'textLength="{len(words) * WIDTH:.1f}">{escape(words)}</text>'
            )
        x += len(text)
    return made


def main() -> None:
    """Record a command into a file."""
    output, *command = sys.argv[1:]
    frames: list[Frame] = []
    for frame in record(command):
        if not frames or frame.rows != frames[-1].rows:
            frames.append(frame)
    Path(output).write_text(picture(frames))
    print(f"{output}: {len(frames)} screens, {Path(output).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
