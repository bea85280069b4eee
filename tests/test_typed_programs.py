"""Every documented program passes ``mypy --strict`` and pyright in strict mode, in one run of each.

The programs are the Python blocks of README.md and of all pages under docs/, and the files of
examples/. Blocks with a file name are modules that the other programs of their page import. A
block fenced as ``python fragment`` without a file name is checked if it defines all names that it
uses. What imports a package that is not installed is left out.
"""

import ast
import builtins
import json
import os
import re
import subprocess
import symtable
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path
from typing import NamedTuple

import pytest

from tests.test_readme import Block, blocks_of

ROOT = Path(__file__).parents[1]
INSTALLED = [str(ROOT), get_path("purelib"), get_path("platlib")]
# Packages that examples consist of, with the folders that they are run in.
EXAMPLES = {path.parent.name: path.parents[1] for path in ROOT.glob("examples/*/*/__init__.py")}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# It is not the fault of a program that it uses a package without types.
LENIENT = ("import-untyped", "untyped-decorator", "no-untyped-call")
ADVICE = """
Documented programs pass the type checkers of their readers. What to write:
  declarations    class Calc(Protocol):
                      async def add(self, a: int, b: int) -> int: ...
                      def count(self, n: int) -> AsyncIterator[int]: ...
                  calc = client.bind(Calc, group="default")
  options         await with_options(calc.add, timeout=3)(1, 2), not calc.add(1, 2, timeout=3)
  a lone stub     @client.register with `raise NotImplementedError` as its body, instead of `...`
  items           found: list[int] = [], not found = [], whose items pyright does not know
  answers         a function with type hints, not a lambda, whose parameters have none
  without await   the same with `def` methods for a SyncClient, and Iterator[int] for generators
docs/how-to/typing.md has all of it. `# type: ignore[code]` is for programs that show a mistake."""


class Checked(NamedTuple):
    """A file that is checked, and where its text stands."""

    path: Path
    page: str
    line: int

    def place(self, line: int) -> str:
        return f"{self.page}:{self.line + line}"


def stands_alone(code: str) -> bool:
    """Whether a program defines all names that it uses."""
    try:
        top = symtable.symtable(code, "block", "exec")
    except SyntaxError:  # such as an `await` outside a function
        return False
    known = {it.get_name() for it in top.get_symbols() if it.is_assigned() or it.is_imported()}
    known |= {*dir(builtins), "__name__", "__file__"}
    pending = [top]
    while pending:
        table = pending.pop()
        pending += table.get_children()
        for each in table.get_symbols():
            is_global = each.is_global() or (table is top and each.is_referenced())
            if is_global and each.get_name() not in known:
                return False
    return True


def are_there(packages: set[str]) -> bool:
    """Whether packages are installed, whatever a test has put on the path of this process."""
    missing = packages - sys.stdlib_module_names
    return all(PathFinder.find_spec(name, INSTALLED) is not None for name in missing)


def imported(code: str) -> set[str]:
    """Return the packages that a program imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def files_of(blocks: list[Block]) -> set[str]:
    return {block.file_name.removesuffix(".py") for block in blocks if block.file_name}


def programs_of(blocks: list[Block]) -> list[Block]:
    """Return the blocks of a page that can be checked; see the docstring of this module."""
    found = [
        block
        for block in blocks
        if block.role != "fragment" or block.file_name or stands_alone(block.code)
    ]
    while True:  # what imports a file that is left out is left out, too
        files = files_of(found)
        there = [block for block in found if are_there(imported(block.code) - files)]
        if len(there) == len(found):
            return found
        found = there


def within_package(code: str, package: str, files: set[str]) -> str:
    """Let a program import the files of its page from a package, on the same lines."""
    for name in files:
        place = f"{package}.{name}"
        code = re.sub(rf"^( *)from {name} import", rf"\1from {place} import", code, flags=re.M)
        code = re.sub(rf"^( *)import {name}$", rf"\1import {place} as {name}", code, flags=re.M)
    return code


def save_page(page: Path, folder: Path) -> Iterator[Checked]:
    """Save the programs of a page as modules of one package."""
    where = str(page.relative_to(ROOT))
    home = folder / "pages" / re.sub(r"\W", "_", where.removesuffix(".md"))
    home.mkdir(parents=True)
    blocks = programs_of(blocks_of(page.read_text()))
    for block in blocks:
        path = home / (block.file_name or f"line_{block.line}.py")
        if path.exists():  # the page shows another state of the file
            path = home / f"line_{block.line}.py"
        path.write_text(within_package(block.code, f"pages.{home.name}", files_of(blocks)))
        yield Checked(path, where, block.line)


def save_examples(folder: Path) -> Iterator[Checked]:
    for path in sorted((ROOT / "examples").rglob("*.py")):
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
        if are_there(imported(path.read_text()) - EXAMPLES.keys()):
            yield Checked(copy, str(path.relative_to(ROOT)), 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("typed")


@pytest.fixture(scope="module")
def checked(folder: Path) -> dict[Path, Checked]:
    saved = [each for page in PAGES for each in save_page(page, folder)]
    return {each.path: each for each in [*saved, *save_examples(folder)]}


def paths_in(folder: Path) -> list[str]:
    """Return where the programs import from."""
    return [str(folder), *(str(folder / each.relative_to(ROOT)) for each in EXAMPLES.values())]


def run(module: str, *arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": os.pathsep.join(paths_in(folder))},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout or done.stderr


def listed(checked: dict[Path, Checked], errors: Iterable[tuple[str, int, str]]) -> str:
    """Return the first error of each line, with its place in the documentation."""
    found: dict[str, str] = {}
    for path, line, text in errors:
        found.setdefault(checked[Path(path)].place(int(line)), text.partition("\n")[0])
    return "\n".join(f"{place}: {text}" for place, text in sorted(found.items()))


def test_many_programs_are_checked(checked: dict[Path, Checked]) -> None:
    assert len(checked) > 60
    assert {each.page for each in checked.values()} >= {"README.md", "docs/calls.md"}


def test_every_documented_program_passes_mypy_in_strict_mode(
    folder: Path, checked: dict[Path, Checked]
) -> None:
    options = ["--strict", "--no-pretty", "--hide-error-context", "--no-color-output"]
    options += [f"--disable-error-code={code}" for code in LENIENT]
    output = run("mypy", *options, *map(str, checked), folder=folder)
    errors = re.findall(r"^(/.+?):(\d+): error: (.*)$", output, re.MULTILINE)
    found = listed(checked, errors)
    assert found or output.startswith("Success"), output
    assert not found, f"mypy refuses:\n{found}\n{ADVICE}"


def test_every_documented_program_passes_pyright_in_strict_mode(
    folder: Path, checked: dict[Path, Checked]
) -> None:
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    config = {
        "include": [str(path.relative_to(folder)) for path in checked],
        "extraPaths": [*paths_in(folder), str(ROOT)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportMissingModuleSource": False,
    }
    project = folder / "pyrightconfig.json"
    project.write_text(json.dumps(config))
    options = ["--outputjson", "--project", str(project), "--pythonpath", sys.executable]
    output = run("pyright", *options, folder=folder)
    try:
        report = json.loads(output)
    except ValueError:
        pytest.skip(f"pyright cannot run here: {output or 'it needs Node.js'}")
    assert report["summary"]["filesAnalyzed"] >= len(checked), report["summary"]
    errors = [
        (
            each["file"],
            each["range"]["start"]["line"] + 1,
            f"{each['message']} ({each.get('rule')})",
        )
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    ]
    found = listed(checked, errors)
    assert not found, f"pyright refuses:\n{found}\n{ADVICE}"
