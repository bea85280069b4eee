"""A reader who types and runs what the pages of the tutorial say."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.ports import free_port
from tests.tutorial.pages import ROOT, Command, File, Lines, Step

__all__ = ["Reader"]

PATIENCE = 60.0
# Numbers that differ each time: ports and processes, times, and times of the day.
VARIES = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+|\b[0-9a-f]{32}\b|\b\d+\.\d+|\b\d{4,}\b|…")
PORT = re.compile(r"(?:(?<=localhost:)|(?<=0\.0\.0\.0:)|(?<=-port )|(?<=_PORT=))9\d\d\d\b")


class Reader:
    """Takes the steps of pages in a folder of its own.

    A number of four digits or more, or the id of a trace, in the output of a page stands for the
    one that is really printed, also later on and in commands. ``…`` stands for any text, and on a
    line alone, for any lines.

    Args:
        folder: Where the files are written and the commands run.
        env: Variables that the commands get besides.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self._terminals: dict[str, _Terminal] = {}
        self._numbers = {"9000": str(free_port())}
        programs = self.folder.parent / "bin"
        _install(programs)
        path = f"{programs}:{os.environ['PATH']}"
        paths = {
            "PYTEST_ADDOPTS": "-p no:randomly",
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "MYPYPATH": str(ROOT),
        }
        self._env = {**os.environ, **paths, "NO_COLOR": "1", "COLUMNS": "80", **env}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for terminal in self._terminals.values():
            terminal.close()

    def take(self, step: Step) -> None:
        """Take a step, and compare what is printed with what the page shows."""
        match step:
            case File(path=path, text=text):
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).write_text(self._with_own_numbers(text))
            case Lines(line, terminal, output):
                assert terminal in self._terminals, f"line {line}: nothing runs in {terminal!r}"
                self._expect(self._terminals[terminal], output, line)
            case Command(line, "^C", terminal, output):
                assert terminal in self._terminals, f"line {line}: nothing runs in {terminal!r}"
                self._terminals[terminal].interrupt()
                self._expect(self._terminals[terminal], output, line)
                self._terminals.pop(terminal).end()
            case Command(line, text, "", output):
                self._compare(self._run(text), output, line)
            case Command(line, text, terminal, output):
                assert terminal not in self._terminals, f"line {line}: {terminal!r} is in use"
                log = self.folder.parent / f"{terminal}.txt"
                command = self._with_own_numbers(text)
                started = _Terminal(command, self.folder, self._env, log)
                self._terminals[terminal] = started
                self._expect(started, output, line)

    def _run(self, text: str) -> str:
        found = "--registry" in text or "--host" in text
        default = {} if found else {"RAP_CALL_HOST": f"localhost:{self._numbers['9000']}"}
        ended = subprocess.run(
            ["bash", "-c", self._with_own_numbers(text)],
            cwd=self.folder,
            env=self._env | default,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE,
            check=False,
        )
        return ended.stdout

    def _compare(self, printed: str, shown: list[str], line: int) -> None:
        """Compare all of what a command has printed."""
        pattern = "".join(
            r"(?:.*\n)*?" if each == "…" else self._pattern(each) + r" *\n" for each in shown
        )
        found = re.fullmatch(pattern, printed)
        if not found:
            texts = "\n".join(shown)
            raise AssertionError(f"line {line} shows\n{texts}\nand this is printed:\n{printed}")
        self._remember(shown, found)

    def _expect(self, terminal: "_Terminal", shown: list[str], line: int) -> None:
        """Wait until a terminal has printed the lines, in any order and among others."""
        patterns = [re.compile(rf"^{self._pattern(each)} *$", re.M) for each in shown]
        end = time.monotonic() + PATIENCE
        while True:
            ended, printed = terminal.ended, terminal.printed
            found = [pattern.search(printed) for pattern in patterns]
            if all(found):
                break
            if ended or time.monotonic() > end:
                texts = "\n".join(shown)
                raise AssertionError(f"line {line} shows\n{texts}\nand this is printed:\n{printed}")
            time.sleep(0.02)
        matches = [match for match in found if match]
        terminal.leave_out(max((match.end() for match in matches), default=0))
        for each, match in zip(shown, matches, strict=True):
            self._remember([each], match)

    def _pattern(self, shown: str) -> str:
        """Return a pattern for a line that the page shows."""
        parts, at = [], 0
        for varying in VARIES.finditer(shown):
            parts.append(re.escape(shown[at : varying.start()]))
            at = varying.end()
            if varying[0].isalnum():
                own = self._numbers.get(varying[0], r"\d+|[0-9a-f]{32}")
                parts.append(rf"\b({own})\b")
            elif varying[0] == "…":
                parts.append(".*")
            else:
                parts.append(r"[\d., :-]+")
        pattern = "".join(parts) + re.escape(shown[at:])
        return re.sub(r"={5,}", "=+", pattern)  # pytest pads lines, by the length of its times

    def _remember(self, shown: list[str], found: re.Match[str]) -> None:
        numbers = [each for line in shown for each in VARIES.findall(line) if each.isalnum()]
        self._numbers |= dict(zip(numbers, found.groups(), strict=True))

    def _with_own_numbers(self, text: str) -> str:
        """Replace the numbers of the page by those that were printed, and ports by free ones."""
        for port in PORT.findall(text):
            if port not in self._numbers:
                self._numbers[port] = str(free_port())
        return re.sub(r"\b\d{4,}\b", lambda each: self._numbers.get(each[0], each[0]), text)


def _install(folder: Path) -> None:
    """Write the programs of a virtual environment."""
    modules = {"rap": "rap.cli", "mypy": "mypy", "pyright": "pyright", "pytest": "pytest"}
    lines = {name: f'"{sys.executable}" -m {module}' for name, module in modules.items()}
    folder.mkdir()
    lines |= {"python": f'"{sys.executable}"', "python3": f'"{sys.executable}"'}
    for name, line in lines.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        program.chmod(0o755)


class _Terminal:
    """A command that keeps running."""

    def __init__(self, command: str, folder: Path, env: dict[str, str], log: Path) -> None:
        self._log = log
        self._from = 0
        with log.open("w") as output:
            self._process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """What it has printed since the last lines that a page has shown."""
        return self._log.read_text()[self._from :]

    @property
    def ended(self) -> bool:
        """Whether the command has ended."""
        return self._process.poll() is not None

    def leave_out(self, count: int) -> None:
        """Leave out so many characters from now on."""
        self._from += count

    def interrupt(self) -> None:
        """Press Ctrl-C: all processes of the terminal get SIGINT."""
        assert not self.ended, f"it has ended:\n{self._log.read_text()}"
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self) -> None:
        """Wait until the command has ended."""
        self._process.wait(PATIENCE)
        self.close()

    def close(self) -> None:
        """Kill what is left."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
