"""The programs that documented release 0.5.3.8 run in exactly its spelling.

Their text stands here as it was published, defects of style included; only addresses are replaced.
Fragments that declare functions get a server with these functions.
"""
# ruff: noqa: E501, W291, W293

import asyncio
import datetime
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rap.client import Client
from rap.server import Channel, Request, Server, context
from tests.loopback import PATIENCE, serving

ROOT = Path(__file__).parents[1]
# A shell may start its background jobs deaf to Ctrl-C; a user's terminal does not.
RUNNER = (
    "import runpy, signal, sys; sys.path.insert(0, sys.argv[2]);"
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)
# The server's program leaves its loop open; that is its own affair.
WARNINGS = ["-W", "error", "-W", "ignore:unclosed event loop:ResourceWarning"]

SERVER = """
import asyncio
from typing import AsyncIterator

from rap.server import Server


def sync_sum(a: int, b: int) -> int:
    return a + b


async def async_sum(a: int, b: int) -> int:
    await asyncio.sleep(1)  #  mock io 
    return a + b


async def async_gen(a: int) -> AsyncIterator[int]:
    for i in range(a):
        yield i


loop = asyncio.new_event_loop()
rpc_server = Server()  # init service

# register func
rpc_server.register(sync_sum)
rpc_server.register(async_sum)
rpc_server.register(async_gen)

# run server
loop.run_until_complete(rpc_server.create_server())

try:
    loop.run_forever()
except KeyboardInterrupt:
    # stop server
    loop.run_until_complete(rpc_server.await_closed())
"""

CLIENT = """
import asyncio
from typing import AsyncIterator

from rap.client import Client

client: "Client" = Client()  # init client


# Declare a function with no function. The function name, function type and return type must be the same as the server side function (async def does not differ from def) 
def sync_sum(a: int, b: int) -> int:
    pass


# The decorated function must be an async def function  
@client.register()
async def sync_sum(a: int, b: int) -> int:
    pass


# The decorated function must be the async def function, because the function is a generator syntax, to `yield` instead of `pass` 
@client.register()
async def async_gen(a: int) -> AsyncIterator:
    yield


async def main():
    await client.connect()
    # Call the call method; read the function name and then call `raw_call`. 
    print(f"call result: {await client.call(sync_sum, 1, 2)}")
    # Basic calls to rap.client 
    print(f"raw call result: {await client.raw_call('sync_sum', 1, 2)}")
    
    # Functions registered through `@client.register` can be used directly 
    # await async_sum(1,3) == await client.raw_call('async_sum', 1, 2)
    # It is recommended to use the @client.register method, which can be used by tools such as IDE to determine whether the parameter type is wrong 
    print(f"decorator result: {await sync_sum(1, 3)}")
    async_gen_result: list = []
    
    # Example of an asynchronous generator, which by default opens or reuses the current session of the rap (about the session will be mentioned below) 
    async for i in async_gen(10):
        async_gen_result.append(i)
    print(f"async gen result:{async_gen_result}")

    
asyncio.run(main())
"""

PRINTED = """\
call result: 3
raw call result: 3
decorator result: 4
async gen result:[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

REGISTERING_SERVER = """
import asyncio
from typing import AsyncIterator 

from rap.server import Server


def demo1(a: int, b: int) -> int:
    return a + b


async def demo2(a: int, b: int) -> int:
    await asyncio.sleep(1)
    return a + b


async def demo_gen(a: int) -> AsyncIterator[int]:
    for i in range(a):
        yield i


server: Server = Server()
server.register(demo1)   # register def func
server.register(demo2)   # register async def func 
server.register(demo_gen)  # register async iterator func
server.register(demo2, name='demo2-alias')   # Register with the value of `name` 
server.register(demo2, group='new-group')    # Register and set the groups to be registered 
server.register(demo2, group='root', is_private=True)  # Register and set the group to be registered, and set it to private 
"""

REGISTERING_CLIENT = """
from typing import AsyncIterator 
from rap.client import Client

client: Client = Client()


# register func
@client.register()
async def demo1(a: int, b: int) -> int: pass


# register async iterator fun, replace `pass` with `yield` 
# Since `async for` will make multiple requests to the same conn over time, it will check if the session is enabled and automatically reuse the current session if it is enabled, otherwise it will create a new session and use it. 
@client.register()
async def demo_gen(a: int) -> AsyncIterator: yield 


# Register the general function and set the name to demo2-alias 
@client.register(name='demo2-alias')
async def demo2(a: int, b: int) -> int: pass


# Register the general function and set the group to new-group 
@client.register(group='new-group')
async def demo2(a: int, b: int) -> int: pass
"""

SESSION_CLIENT = """
from typing import AsyncIterator

from rap.client import Client

client = Client()


def sync_sum(a: int, b: int) -> int:
  pass


@client.register()
async def async_sum(a: int, b: int) -> int:
  pass


@client.register()
async def async_gen(a: int) -> AsyncIterator[int]:
  yield


async def no_param_run():
  # The rap internal implementation uses the session implicitly via the `contextvar` module 
  print(f"sync result: {await client.call(sync_sum, 1, 2)}")
  print(f"async result: {await async_sum(1, 3)}")

  # The asynchronous generator detects if a session is enabled, and if so, it automatically reuses the current session, otherwise it creates a session 
  async for i in async_gen(10):
    print(f"async gen result:{i}")


async def param_run(session: "Session"):
  # By explicitly passing the session parameters in 
  print(f"sync result: {await client.call(sync_sum, 1, 2, session=session)}")
  print(f"sync result: {await client.raw_call('sync_sum', 1, 2, session=session)}")
  # May be a bit unfriendly 
  print(f"async result: {await async_sum(1, 3, session=session)}")

  # The asynchronous generator detects if a session is enabled, and if so, it automatically reuses the current session, otherwise it creates a session 
  async for i in async_gen(10):
    print(f"async gen result:{i}")


async def execute(session: "Session"):
  # The best way to call a session explicitly, using a method similar to the mysql cursor 
  # execute will automatically recognize the type of call 
  print(f"sync result: {await session.execute(sync_sum, arg_list=[1, 2])}")
  print(f"sync result: {await session.execute('sync_sum', arg_list=[1, 2])}")
  print(f"async result: {await session.execute(async_sum(1, 3))}")

  # The asynchronous generator detects if a session is enabled, and if so, it automatically reuses the current session, otherwise it creates a session 
  async for i in async_gen(10):
    print(f"async gen result:{i}")


async def run_once():
  await client.connect()
  # init session
  async with client.session as s:
    await no_param_run()
    await param_run(s)
    await execute(s)
  await client.await_close()
"""

CHANNEL_CLIENT = """
from rap.client import Channel, Client
from rap.client.model import Response

client = Client()


@client.register()
async def async_channel(channel: Channel) -> None:
    await channel.write("hello")  # send data
    cnt: int = 0
    while await channel.loop(cnt < 3):
        cnt += 1
        print(await channel.read_body())  # read data 


@client.register()
async def echo_body(channel: Channel) -> None:
    await channel.write("hi!")
    # Reads data, returns only when data is read, and exits the loop if it receives a signal to close the channel 
    async for body in channel.iter_body():
        print(f"body:{body}")
        await channel.write(body)


@client.register()
async def echo_response(channel: Channel) -> None:
    await channel.write("hi!")
    # Read the response data (including header data), and return only if the data is read, or exit the loop if a signal is received to close the channel 
    async for response in channel.iter_response():
        response: Response = response  #  help IDE check type.... 
        print(f"response: {response}")
        await channel.write(response.body)
"""

SSL_CLIENT = """
from rap.client import Client

client = Client(ssl_crt_path="./rap_ssl.crt")
"""

SSL_SERVER = """
from rap.server import Server

rpc_server = Server(
    ssl_crt_path="./rap_ssl.crt",
    ssl_key_path="./rap_ssl.key",
)
"""

EVENTS = """
from rap.server import Server


async def mock_start():
    print('start event')


async def mock_stop(): 
    print('stop event')


# example 1
server = Server(start_event_list=[mock_start()], stop_event_list=[mock_stop()])
# example 2
server = Server()
server.load_start_event([mock_start()])
server.load_stop_event([mock_stop()])
"""


def at(program: str, address: str) -> str:
    """Return the program with an address given to its server or client."""
    return re.sub(r"\b(Server|Client)\((?=[^.])", rf"\1('{address}', ", program)


def declared(program: str, address: str) -> dict[str, Any]:
    """Run a program that only declares, without a loop; return what it declares."""
    names: dict[str, Any] = {}
    exec(compile(at(program, address), "program", "exec"), names)
    return names


def sync_sum(a: int, b: int) -> int:
    return a + b


async def async_sum(a: int, b: int) -> int:
    return a + b


async def async_gen(a: int) -> AsyncIterator[int]:
    for i in range(a):
        yield i


# The two programs that introduce rap, each a process of its own.


@contextmanager
def started(script: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a program as its user does."""
    with subprocess.Popen(
        [sys.executable, *WARNINGS, "-c", RUNNER, str(script), str(ROOT)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_it_listens(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("localhost", port), 1.0).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return


def test_the_two_first_programs_run_and_exit_by_themselves(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
    server_script, client_script = tmp_path / "server.py", tmp_path / "client.py"
    server_script.write_text(at(SERVER, f"localhost:{port}"))
    client_script.write_text(at(CLIENT, f"localhost:{port}"))
    with started(server_script) as server:
        wait_until_it_listens(port)
        with started(client_script) as client:
            assert client.communicate(timeout=PATIENCE) == (PRINTED, "")
            assert client.returncode == 0
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=PATIENCE) == ("", "")
        assert server.returncode == 0


# Registration.


async def test_functions_are_registered_under_names_and_groups() -> None:
    server = declared(REGISTERING_SERVER, "localhost:0")["server"]
    async with server:
        names = declared(REGISTERING_CLIENT, str(server.addresses[0]))
        client = names["client"]
        await client.connect()
        assert await names["demo1"](1, 2) == 3
        assert [i async for i in names["demo_gen"](3)] == [0, 1, 2]
        results = await asyncio.gather(
            names["demo2"](1, 2),
            client.raw_call("demo2", 1, 2),
            client.raw_call("demo2-alias", 1, 2),
            client.raw_call("demo2", 1, 2, group="new-group"),
            client.raw_call("demo2", 1, 2, group="root"),
        )
        assert sum(results) == 15
        await client.await_close()


# Sessions.


async def test_sessions_work_implicitly_explicitly_and_by_execute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(sync_sum, async_sum, async_gen) as server:
        names = declared(SESSION_CLIENT, str(server.addresses[0]))
        await names["run_once"]()
    items = [f"async gen result:{i}" for i in range(10)]
    assert capsys.readouterr().out.splitlines() == [
        *("sync result: 3", "async result: 4", *items),
        *("sync result: 3", "sync result: 3", "async result: 4", *items),
        *("sync result: 3", "sync result: 3", "async result: 4", *items),
    ]


# Channels.


async def async_channel(channel: Channel) -> None:
    said = await channel.read_body()
    for i in range(3):
        await channel.write(f"{said} {i}")


async def echo(channel: Channel) -> None:
    for _ in range(2):
        await channel.write(await channel.read_body())
    await channel.read_body()


async def test_channels_read_and_write_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server("localhost:0")
    server.register(async_channel)
    server.register(echo, name="echo_body")
    server.register(echo, name="echo_response")
    async with server:
        names = declared(CHANNEL_CLIENT, str(server.addresses[0]))
        await names["client"].connect()
        await names["async_channel"]()
        assert capsys.readouterr().out == "hello 0\nhello 1\nhello 2\n"
        await names["echo_body"]()
        assert capsys.readouterr().out == "body:hi!\nbody:hi!\n"
        await names["echo_response"]()
        assert len(re.findall(r"^response: .*'hi!'", capsys.readouterr().out, re.M)) == 2
        await names["client"].await_close()


# TLS.


def write_certificate(folder: Path) -> None:
    """Write what `openssl req -newkey ... -x509` of the documentation writes."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Widgits Pty Ltd")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "rap_ssl.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "rap_ssl.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def test_tls_takes_the_paths_of_certificate_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_certificate(tmp_path)
    monkeypatch.chdir(tmp_path)
    server = declared(SSL_SERVER, "localhost:0")["rpc_server"]
    server.register(sync_sum)
    async with server:
        address = server.addresses[0]
        assert address.scheme == "tls"
        client = declared(SSL_CLIENT, f"localhost:{address.port}")["client"]
        async with client:
            assert await client.raw_call("sync_sum", 1, 2) == 3


# Events.


async def test_events_may_be_coroutine_objects(capsys: pytest.CaptureFixture[str]) -> None:
    for program in (EVENTS, EVENTS.partition("# example 2")[0]):
        async with declared(program, "localhost:0")["server"]:
            assert capsys.readouterr().out == "start event\n"
        assert capsys.readouterr().out == "stop event\n"


# Paths of import.


async def test_a_handler_sees_its_request_where_the_documentation_says() -> None:
    async def who() -> list[str]:
        request: Request = context.request
        return [request.group, request.func_name]

    async with serving(who) as server, Client(str(server.addresses[0])) as client:
        assert await client.raw_call("who") == ["default", "who"]
