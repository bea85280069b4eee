"""Mistakes on the command line."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner

from rap.cli.app import rap
from tests.cli.shop import invoke, shop
from tests.mistakes.catalogue import Scene, mistake
from tests.mistakes.programs import printed

PROGRAM = """
from rap import Server

server = Server("127.0.0.1:0")
number = 5

def make(port):
    return Server(f"127.0.0.1:{port}")
"""


def _run(*args: str) -> str:
    return CliRunner().invoke(rap, args).output.strip()


async def _call(*args: str) -> str:
    async with shop() as server:
        return (await invoke(server, *args)).output.strip()


def _serve(scene: Scene, target: str, program: str = PROGRAM) -> str:
    Path(scene.folder, "store.py").write_text(program)
    return printed(scene.folder, "serve", target)


@mistake(
    "`rap serve` without the name of the server",
    3,
    what="has not the form module:server",
    where="'store.py'",
    remedy="such as store:server",
)
def serve_without_attribute(scene: Scene) -> Any:
    return _run("serve", "store.py")


@mistake(
    "`rap serve` of a file",
    3,
    what="there is no module 'store.py'",
    where="'store.py:server'",
    remedy="write it as store:server",
)
def serve_file(scene: Scene) -> Any:
    return _serve(scene, "store.py:server")


@mistake(
    "`rap serve` of a function that takes arguments",
    3,
    what="missing a required argument: 'port'",
    where="'store:make'",
    remedy="must be a Server, or a function without arguments",
)
def serve_factory(scene: Scene) -> Any:
    return _serve(scene, "store:make")


@mistake(
    "`rap call` of a function that does not exist",
    3,
    what="no function '/default/ad'",
    where="on this server",
    remedy="did you mean 'add'?",
)
async def call_unknown(scene: Scene) -> Any:
    return await _call("call", "ad", "1", "2")


@mistake(
    "`rap call` with a wrong argument name",
    3,
    what="got an unexpected keyword argument 'c'",
    where="add()",
    remedy="expected add(a: int, b: int = 1)",
)
async def call_wrong_name(scene: Scene) -> Any:
    return await _call("call", "add", "a=1", "c=2")


@mistake(
    "`rap call` with an argument of the wrong type",
    3,
    what="got `str`",
    where="add(): argument 'b'",
    remedy="expected `int`",
)
async def call_wrong_type(scene: Scene) -> Any:
    return await _call("call", "add", "1", "two")


@mistake(
    "`rap call` without a port",
    3,
    what="got 'localhost'",
    where="'--host'",
    remedy="it must be host:port",
)
def call_no_port(scene: Scene) -> Any:
    return _run("call", "add", "--host", "localhost")


@mistake(
    "an option of a command is misspelled",
    3,
    what="No such option '--hots'",
    where="rap call",
    remedy="Did you mean '--host'?",
)
def misspelled_flag(scene: Scene) -> Any:
    return _run("call", "add", "--hots", "localhost:9000")


@mistake(
    "a command is misspelled",
    3,
    what="No such command 'cal'",
    where="rap",
    remedy="Did you mean 'call'?",
)
def misspelled_command(scene: Scene) -> Any:
    return _run("cal", "add")


@mistake(
    "`rap compat` of a file that is no description",
    3,
    what="it is not what",
    where="<folder>/old.json",
    remedy="`rap describe --json` writes",
)
def compat_no_description(scene: Scene) -> Any:
    path = Path(scene.folder, "old.json")
    path.write_text("{}")
    return _run("compat", str(path), str(path))
