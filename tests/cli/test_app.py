"""The list of commands: complete, correct, and printed without importing them."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import rap as rap_package
from rap.cli.app import COMMANDS, rap
from tests.cli.programs import PATIENCE, ROOT


@pytest.mark.parametrize("name", COMMANDS)
def test_a_line_of_the_list_is_the_first_sentence_of_the_command(name: str) -> None:
    command = rap.get_command(click.Context(rap), name)
    assert command is not None
    place = COMMANDS[name]
    assert command.name == name
    assert command.hidden is (place.help == "")
    if place.help:
        assert (command.help or "").replace("\n", " ").startswith(place.help)


@pytest.mark.parametrize(
    ("given", "hint"),
    [("sevre", " Did you mean 'serve'?"), ("lsx", " Did you mean 'ls'?"), ("x", "")],
)
def test_an_unknown_command_is_named_with_the_one_that_was_meant(given: str, hint: str) -> None:
    result = CliRunner().invoke(rap, [given])
    assert result.exit_code == 2
    assert result.stderr.endswith(f"No such command '{given}'.{hint}\n")


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        *((name, "--adress", "--host") for name in ("bench", "call", "ls", "ping", "stub", "top")),
        ("call", "--url", "--host"),
        ("call", "--timout", "--timeout"),
        ("call", "--deadline", "--timeout"),
        ("bench", "--idmpotent", "--idempotent"),
        ("serve", "--log-levl", "--log-level"),
        ("serve", "--loglevel", "--log-level"),
        ("serve", "--worker", "--workers"),
        ("demo", "--second", "--seconds"),
        ("call", "--idempotent", None),  # like no other by far, and another command has it
        ("compat", "--adress", "--host"),
    ],
)
def test_an_unknown_option_is_named_with_the_one_that_was_meant(
    command: str, given: str, meant: str | None
) -> None:
    result = CliRunner().invoke(rap, [command, given, "x"])
    assert result.exit_code == 2
    hint = "; see" if meant is None else f". Did you mean '{meant}'? See"
    assert result.stderr == f"Error: No such option '{given}'{hint} rap {command} --help\n"


def test_help_imports_no_command() -> None:
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from rap.cli.app import rap\n"
        "rap(standalone_mode=False)\n"
        "print(sorted({'asyncio', 'rich', 'rap.client', 'rap.server'} & sys.modules.keys()))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert found.stdout.endswith("\n[]\n")
    for name, place in COMMANDS.items():
        assert (f"\n  {name} " in found.stdout) is bool(place.help)


@pytest.mark.parametrize(("package", "args"), [("click", []), ("rich", ["demo"])])
def test_running_it_without_the_extra_names_the_extra(package: str, args: list[str]) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {args!r};"
        "from rap.cli import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == f"the command rap needs {package}: install rap[cli]\n"


def test_it_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "rap.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "serve" in found.stdout
    assert "demo-replica" not in found.stdout


def test_the_version_is_one_line() -> None:
    result = CliRunner().invoke(rap, ["--version"])
    assert (result.output, result.exit_code) == (f"rap {rap_package.__version__}\n", 0)
    assert "__version__" in rap_package.__all__
