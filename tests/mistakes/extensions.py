"""Mistakes with processors, middleware and encryption."""

from typing import Any

from rap import Client, Server
from rap.client.processor import CryptoProcessor as ClientCryptoProcessor
from rap.processor import BaseProcessor
from rap.processor.compress import CompressProcessor
from rap.server.middleware import BaseConnMiddleware, BaseMsgMiddleware
from rap.server.processor import CryptoProcessor as ServerCryptoProcessor
from rap.testing import TestClient
from tests.loopback import LOOPBACK
from tests.mistakes.catalogue import Scene, mistake

KEY = "0123456789abcdef"


async def _call(server: Server, **options: Any) -> Any:
    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    async with TestClient(server, **options) as client:
        await client.raw_call("add", 1, 2)


@mistake(
    "the client does not encrypt",
    3,
    what="takes encrypted calls only",
    where="/default/add",
    remedy="load a CryptoProcessor into the client",
)
async def client_without_encryption(scene: Scene) -> Any:
    await _call(Server(processor_list=[ServerCryptoProcessor({"a": KEY})]))


@mistake(
    "the server does not decrypt",
    3,
    what="the call is encrypted, and this server has no CryptoProcessor",
    where="/default/add",
    remedy="load one into the server, or none into the client",
)
async def server_without_encryption(scene: Scene) -> Any:
    await _call(Server(), processor_list=[ClientCryptoProcessor("a", KEY)])


@mistake(
    "client and server have different keys",
    3,
    what="cannot be decrypted",
    where="/default/add: request 0",
    remedy="give client and server the same key",
)
async def other_crypto_key(scene: Scene) -> Any:
    server = Server(processor_list=[ServerCryptoProcessor({"a": KEY})])
    await _call(server, processor_list=[ClientCryptoProcessor("a", KEY[::-1])])


@mistake(
    "the server does not have the key id of the client",
    3,
    what="no key has the id 'b'",
    where="/default/add",
    remedy="give both sides the same id",
)
async def other_key_id(scene: Scene) -> Any:
    server = Server(processor_list=[ServerCryptoProcessor({"a": KEY})])
    await _call(server, processor_list=[ClientCryptoProcessor("b", KEY)])


@mistake(
    "the key has a wrong length",
    3,
    what="it has 6",
    where="the key of 'a'",
    remedy="must have 16, 24 or 32 bytes",
)
def short_key(scene: Scene) -> Any:
    ClientCryptoProcessor("a", "secret")


@mistake(
    "a processor class is loaded instead of an object",
    3,
    what="got <class 'rap.processor.compress.CompressProcessor'>",
    where="processor_list takes",
    remedy="make an object: CompressProcessor()",
)
def processor_class(scene: Scene) -> Any:
    Client("localhost:9000", processor_list=[CompressProcessor])  # type: ignore[list-item]


@mistake(
    "a processor of the other side is loaded",
    3,
    what="is for a client",
    where="processor_list",
    remedy="import the one for a server from rap.server.processor",
)
def processor_of_other_side(scene: Scene) -> Any:
    Server(processor_list=[ClientCryptoProcessor("a", KEY)])


@mistake(
    "a processor is loaded twice",
    3,
    what="is loaded already",
    where="processor_list: this CompressProcessor",
    remedy="make another CompressProcessor()",
)
def processor_twice(scene: Scene) -> Any:
    processor = CompressProcessor()
    Client("localhost:9000", processor_list=[processor, processor])


@mistake(
    "a hook of a processor is misspelled",
    3,
    what="is not a hook, so nothing calls it",
    where="processor_list: Audit.process_requests",
    remedy="did you mean 'process_request'?",
)
def misspelled_hook(scene: Scene) -> Any:
    class Audit(BaseProcessor):
        async def process_requests(self, request: Any) -> Any:
            return request

    Client("localhost:9000", processor_list=[Audit()])
    return scene.log


@mistake(
    "a hook of a processor is a `def`",
    3,
    what="is a `def`",
    where="Audit.process_request of a processor",
    remedy="declare it as `async def`",
)
async def plain_hook(scene: Scene) -> Any:
    class Audit(BaseProcessor):
        def process_request(self, request: Any) -> Any:
            return request

    await _call(Server(), processor_list=[Audit()])


@mistake(
    "a hook of a processor returns nothing",
    2,
    what="a processor returned None instead of the message",
    where="must end with `return`",
)
async def hook_without_return(scene: Scene) -> Any:
    class Audit(BaseProcessor):
        async def process_request(self, request: Any) -> Any:
            pass

    await _call(Server(), processor_list=[Audit()])


@mistake(
    "the middleware of a message returns nothing",
    3,
    what="got None",
    where="dispatch of message middleware (Audit)",
    remedy="end it with `return await self.call_next(...)`",
)
async def middleware_without_return(scene: Scene) -> Any:
    class Audit(BaseMsgMiddleware):
        async def dispatch(self, request: Any, call_id: int, func: Any, param: Any) -> Any:
            await self.call_next(request, call_id, func, param)

    await _call(Server(middleware_list=[Audit()]))


@mistake(
    "the middleware of a message does not call call_next",
    3,
    what="got None",
    where="dispatch of message middleware (Audit)",
    remedy="end it with `return await self.call_next(...)`",
)
async def middleware_without_call_next(scene: Scene) -> Any:
    class Audit(BaseMsgMiddleware):
        async def dispatch(self, request: Any, call_id: int, func: Any, param: Any) -> Any:
            pass

    await _call(Server(middleware_list=[Audit()]))


@mistake(
    "the middleware of a connection does not call call_next: what the client sees",
    3,
    what="lost before its Hello",
    where="inproc://",
    remedy="Its log says why",
)
async def connection_without_call_next(scene: Scene) -> Any:
    class Audit(BaseConnMiddleware):
        async def dispatch(self, conn: Any) -> None:
            pass

    await _call(
        Server(middleware_list=[Audit()]), connect_timeout=1, wait_for_ready=False, timeout=1
    )


@mistake(
    "the middleware of a connection does not call call_next: what the server logs",
    3,
    what="its middleware ended without",
    where="connection with 127.0.0.1",
    remedy="`self.call_next(conn)`",
)
async def connection_without_call_next_log(scene: Scene) -> Any:
    class Audit(BaseConnMiddleware):
        async def dispatch(self, conn: Any) -> None:
            pass

    try:
        await _call(
            Server(middleware_list=[Audit()]), connect_timeout=1, wait_for_ready=False, timeout=1
        )
    except Exception:
        return scene.log


@mistake(
    "a middleware class is loaded instead of an object",
    3,
    what="got <class",
    where="middleware_list takes objects of",
    remedy="make an object: Audit()",
)
def middleware_class(scene: Scene) -> Any:
    class Audit(BaseMsgMiddleware):
        pass

    Server(middleware_list=[Audit])  # type: ignore[list-item]


@mistake(
    "a middleware is loaded as a processor",
    3,
    what="got <tests.mistakes",
    where="processor_list takes",
    remedy="Audit belongs into middleware_list",
)
def middleware_as_processor(scene: Scene) -> Any:
    class Audit(BaseMsgMiddleware):
        pass

    Server(processor_list=[Audit()])  # type: ignore[list-item]


@mistake(
    "dispatch of a middleware has other parameters",
    3,
    what="cannot be called so: too many positional arguments",
    where="Audit.dispatch",
    remedy="dispatch gets 4 arguments, and `default_param` if it asks for it",
)
async def middleware_parameters(scene: Scene) -> Any:
    class Audit(BaseMsgMiddleware):
        async def dispatch(self, request: Any) -> Any:  # type: ignore[override]
            return request

    await _call(Server(middleware_list=[Audit()]))


@mistake(
    "a processor is loaded after connect()",
    3,
    what="is connected",
    where="load_processor: <Client",
    remedy="load before connect()",
)
async def late_client_processor(scene: Scene) -> Any:
    async with TestClient(Server(LOOPBACK)) as client:
        client.load_processor([CompressProcessor()])
