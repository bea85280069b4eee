"""The programs of README.md run as they stand there.

A block fenced as ``python`` is a program: it must end by itself, without an error. One fenced as
``python server`` runs in the background while each ``python client`` block that follows it runs;
it must listen on port 9000, which the test replaces by a free one, and end on Ctrl-C. A block
fenced as ``python fragment`` is only compiled.

A block whose first line is a comment with a file name, such as ``# shop.py``, is saved under that
name, and the other programs of its page can import it. A program that imports a package which is
only a development dependency is skipped if the package is missing.
"""

import ast
import importlib.util
import itertools
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```python *(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w.]+\.py)\n")
# Packages of the extra `dev` that only programs of the docs and examples import.
SHOWN_WITH = {"celery", "django", "fastapi", "flask"}
PATIENCE = 30.0
# A shell may start its background jobs deaf to Ctrl-C; a user's terminal does not.
RUNNER = (
    "import runpy, signal, sys; sys.path.insert(0, sys.argv[2]);"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)


class Block(NamedTuple):
    line: int
    role: str
    code: str

    @property
    def file_name(self) -> str | None:
        """The name that the block gives itself, if any."""
        match = FILE_NAME.match(self.code)
        return match and match[1]


class Example(NamedTuple):
    """A program and the server it needs, if any; or a server alone. Both can import the files."""

    program: Block | None
    server: Block | None
    files: tuple[Block, ...] = ()

    def __str__(self) -> str:
        return f"line {(self.program or self.server or Block(0, '', '')).line}"


def blocks_of(markdown: str) -> list[Block]:
    return [
        Block(markdown.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in FENCE.finditer(markdown)
    ]


def examples_of(blocks: list[Block]) -> list[Example]:
    """Return what to run: each client with the server before it, a server without one alone."""
    server: Block | None = None
    found: list[Example] = []
    files = tuple(block for block in blocks if block.file_name)
    for block, after in zip(blocks, [*blocks[1:], None], strict=False):
        if block.role == "server":
            server = block
            if after is None or after.role != "client":
                found.append(Example(None, server, files))
        elif block.role == "client":
            assert server is not None, f"the client of line {block.line} has no server before it"
            found.append(Example(block, server, files))
        elif block.role != "fragment":
            assert not block.role, f"line {block.line}: what is a {block.role!r}?"
            found.append(Example(block, None, files))
    return found


def save(block: Block, port: int, folder: Path) -> Path:
    """Write a block to a file, with another port; return its path."""
    path = folder / (block.file_name or f"line_{block.line}.py")
    path.write_text(re.sub(r"\b9000\b", str(port), block.code))
    return path


def missing_packages(example: Example) -> set[str]:
    """Return which packages of `SHOWN_WITH` the example imports although they are not installed."""
    blocks = [block for block in (example.program, example.server) if block]
    trees = [ast.walk(ast.parse(block.code)) for block in (*blocks, *example.files)]
    imported: set[str] = set()
    for node in itertools.chain.from_iterable(trees):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
    used = SHOWN_WITH & {name.partition(".")[0] for name in imported}
    return {name for name in used if importlib.util.find_spec(name) is None}


class Program:
    """A block that runs as a process of its own."""

    def __init__(self, block: Block, port: int, folder: Path) -> None:
        self._name = f"the program of line {block.line}"
        self._output = folder / f"{block.line}.txt"
        script = save(block, port, folder)
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", RUNNER, str(script), str(ROOT)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )

    def wait(self) -> str:
        """Return what it printed once it has ended well."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._name} did not end:\n{self._output.read_text()}")
        assert code == 0, f"{self._name} ended with {code}:\n{self._output.read_text()}"
        return self._output.read_text()

    def wait_until_it_listens(self, port: int) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("localhost", port), 1.0).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail(f"{self._name} does not listen:\n{self._output.read_text()}")


@contextmanager
def running(server: Block, port: int, folder: Path) -> Iterator[None]:
    """Run a server around the body, and end it as a user does."""
    program = Program(server, port, folder)
    try:
        program.wait_until_it_listens(port)
        yield
        program.process.send_signal(signal.SIGINT)
        program.wait()
    finally:
        program.process.kill()
        program.process.wait()


def run(example: Example, folder: Path) -> str:
    """Run an example; return what its program printed."""
    missing = missing_packages(example)
    if missing:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}; the extra dev has it")
    port = free_port()
    for block in example.files:
        save(block, port, folder)
    if example.server is None:
        return run_program(example.program, port, folder)
    with running(example.server, port, folder):
        return run_program(example.program, port, folder)


def run_program(block: Block | None, port: int, folder: Path) -> str:
    if block is None:
        return ""
    program = Program(block, port, folder)
    try:
        return program.wait()
    finally:
        program.process.kill()
        program.process.wait()


BLOCKS = blocks_of((ROOT / "README.md").read_text())


def test_the_readme_shows_programs() -> None:
    assert examples_of(BLOCKS)


@pytest.mark.parametrize("example", examples_of(BLOCKS), ids=str)
def test_an_example_of_the_readme_runs(example: Example, tmp_path: Path) -> None:
    run(example, tmp_path)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_a_block_of_the_readme_is_python(block: Block) -> None:
    compile(block.code, f"README.md:{block.line}", "exec")


SAMPLE = """
```python server
import socket
with socket.create_server(("localhost", 9000)) as listener:
    try:
        while True:
            connection, _ = listener.accept()
            connection.sendall(b"hello")
            connection.close()
    except KeyboardInterrupt:
        pass
```
```python client
import socket
with socket.create_connection(("localhost", 9000)) as connection:
    print(connection.recv(5))
```
```python
print("alone")
```
```python fragment
await client.call("f")
```
"""


def test_a_client_meets_the_server_before_it(tmp_path: Path) -> None:
    pair, alone = examples_of(blocks_of(SAMPLE))
    assert run(pair, tmp_path) == "b'hello'\n"
    assert run(alone, tmp_path) == "alone\n"
    assert run(pair._replace(program=None), tmp_path) == ""


def test_a_program_imports_the_files_of_its_page(tmp_path: Path) -> None:
    page = (
        "```python fragment\n# shop.py\nPORT = 9000\n```\n"
        "```python\nimport shop\nprint(shop)\n```\n"
    )
    (example,) = examples_of(blocks_of(page))
    assert "shop.py" in run(example, tmp_path)
    assert "9000" not in (tmp_path / "shop.py").read_text()


def test_a_program_that_needs_what_is_not_installed_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SHOWN_WITH", {"absent"})
    (example,) = examples_of(blocks_of("```python\nfrom absent.views import View\n```\n"))
    with pytest.raises(pytest.skip.Exception, match="not installed: absent"):
        run(example, tmp_path)


def test_a_program_that_fails_is_shown_with_its_line(tmp_path: Path) -> None:
    (example,) = examples_of(blocks_of("a\n```python\n1 / 0\n```\n"))
    with pytest.raises(AssertionError, match=r"line 2 ended with 1(?s:.*)ZeroDivisionError"):
        run(example, tmp_path)


def test_a_server_that_does_not_start_is_shown_with_its_line(tmp_path: Path) -> None:
    (example,) = examples_of(blocks_of("```python server\nexit(3)\n```\n"))
    with pytest.raises(pytest.fail.Exception, match="line 1 does not listen"):
        run(example, tmp_path)


@pytest.mark.parametrize("text", ["```python client\n```\n", "```python sever\n```\n"])
def test_a_wrong_fence_is_refused(text: str) -> None:
    with pytest.raises(AssertionError, match="line 1"):
        examples_of(blocks_of(text))
