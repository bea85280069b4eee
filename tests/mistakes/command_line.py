"""Mistakes on the command line."""

import asyncio
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from rap import Server
from rap.cli.app import rap
from tests.cli.shop import invoke, shop
from tests.loopback import LOOPBACK
from tests.mistakes.catalogue import Scene, mistake
from tests.mistakes.programs import printed
from tests.ports import free_address

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
    "`rap serve` of a module that does not exist",
    3,
    what="there is no module 'stor'",
    where="'stor:server'",
    remedy="run this in the folder of the module, or set PYTHONPATH",
)
def serve_no_module(scene: Scene) -> Any:
    return _serve(scene, "stor:server")


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
    "`rap serve` of an attribute that does not exist",
    3,
    what="has no 'sever'",
    where="'store:sever'",
    remedy="its servers are server",
)
def serve_no_attribute(scene: Scene) -> Any:
    return _serve(scene, "store:sever")


@mistake(
    "`rap serve` of something that is no server",
    3,
    what="got int",
    where="'store:number'",
    remedy="its servers are server",
)
def serve_number(scene: Scene) -> Any:
    return _serve(scene, "store:number")


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
    "`rap serve` of a program that makes its server under `if __name__`",
    3,
    what="has no 'server'",
    where="'store:server'",
    remedy="make a Server there, outside of functions and of `if __name__ == '__main__':`",
)
def serve_main(scene: Scene) -> Any:
    program = 'from rap import Server\n\nif __name__ == "__main__":\n    server = Server()\n'
    return _serve(scene, "store:server", program)


@mistake(
    "`rap serve` of a module that cannot be imported",
    2,
    what="No module named 'nothing_of_this_name'",
    where='store.py", line 1',
)
def serve_broken(scene: Scene) -> Any:
    return _serve(scene, "store:server", "import nothing_of_this_name\n")


@mistake(
    "`rap serve` of a server with an option that is out of its bounds",
    3,
    what="close_timeout must be more than 0 seconds, got -1",
    where="store.py:3: ",
    remedy="must be more than 0 seconds",
)
def serve_bad_option(scene: Scene) -> Any:
    program = "from rap import Server\n\nserver = Server('127.0.0.1:0', close_timeout=-1)\n"
    return _serve(scene, "store:server", program)


@mistake(
    "`rap serve` of a port that is in use",
    3,
    what="Address already in use",
    where="store:server cannot be served",
    remedy="listens there: stop it, use another port, or port 0 for a free one",
)
async def serve_port_in_use(scene: Scene) -> Any:
    async with Server(LOOPBACK) as server:
        program = f'from rap import Server\nserver = Server("{server.addresses[0]}")\n'
        return await asyncio.to_thread(_serve, scene, "store:server", program)


@mistake(
    "`rap call` with JSON that the shell has unquoted",
    3,
    what="'{a: 1}' is not JSON",
    where="argument 'a'",
    remedy="quote it for the shell",
)
async def call_bad_json(scene: Scene) -> Any:
    return await _call("call", "add", "{a: 1}")


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
    "`rap call` with no server",
    3,
    what="connection refused",
    where="127.0.0.1:<port> (connecting: cannot reach it",
    remedy="does the server run, and is this its address?",
)
def call_no_server(scene: Scene) -> Any:
    return _run("call", "add", "1", "2", "--host", free_address())


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
    "`rap call` of a service that is not registered",
    3,
    what="no server of service 'shop'",
    where="(file://<folder>, namespace 'default')",
    remedy="use --wait to wait for a server",
)
def call_no_service(scene: Scene) -> Any:
    return _run("call", "add", "--registry", f"file://{scene.folder}", "--service", "shop")


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
    "`rap stub` of a server without functions",
    3,
    what="has no function that is not private",
    where="the server",
    remedy="register one, or use --private",
)
async def stub_of_nothing(scene: Scene) -> Any:
    async with Server(LOOPBACK) as server:
        return (await invoke(server, "stub")).output.strip()


@mistake(
    "`rap stub` of a group that does not exist",
    3,
    what="there is no function",
    where="in the group shpo",
    remedy="the groups are back, default, registry",
)
async def stub_of_unknown_group(scene: Scene) -> Any:
    return await _call("stub", "--group", "shpo")


@mistake(
    "`rap describe` of a function that does not exist",
    3,
    what="there is no function ad",
    where="in the group default",
    remedy="did you mean add?",
)
async def describe_unknown(scene: Scene) -> Any:
    return await _call("describe", "ad")


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


@mistake(
    "`rap ls` with a registry that cannot be listed",
    3,
    what="lists no instance of the service shop",
    where="memory:// has the servers of this process alone",
    remedy="for others use file:// or redis://",
)
def ls_memory(scene: Scene) -> Any:
    return _run("ls", "--registry", "memory://", "--service", "shop")


@mistake(
    "`rap bench` of a channel function",
    3,
    what="shout is a channel",
    where="shout",
    remedy="bench calls functions and generators",
)
async def bench_channel(scene: Scene) -> Any:
    return await _call("bench", "shout", "--duration", "1")
