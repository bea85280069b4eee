"""The programs that documented release 0.5.3.8, as they were published, defects of style included."""
# ruff: noqa: E501, W291, W293

__all__ = [
    "CHANNEL_CLIENT",
    "CLIENT",
    "EVENTS",
    "PRINTED",
    "REGISTERING_CLIENT",
    "REGISTERING_SERVER",
    "SERVER",
    "SESSION_CLIENT",
    "SSL_CLIENT",
    "SSL_SERVER",
]

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
