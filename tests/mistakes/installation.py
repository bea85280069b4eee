"""Extras that are not installed."""

from typing import Any

from tests.mistakes.catalogue import Scene, mistake
from tests.mistakes.programs import python

_HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError("No module named %r" % name, name=name)

sys.meta_path.insert(0, Hidden())
"""


def _without(scene: Scene, *names: str, program: str) -> str:
    text = python(scene.folder, _HIDE.format(names=names) + program)
    return text.splitlines()[-1]


@mistake(
    "Redis is used without the extra redis",
    3,
    what="needs the extra redis",
    where="redis://",
    remedy="install rap[redis]",
)
def without_redis(scene: Scene) -> Any:
    program = "from rap import Client\nClient(service='shop', registry='redis://localhost')"
    return _without(scene, "redis", program=program)


@mistake(
    "the nonces are in Redis without the extra redis",
    3,
    what="needs the extra redis",
    where="redis://",
    remedy="install rap[redis]",
)
def without_redis_state(scene: Scene) -> Any:
    program = (
        "from rap.server.processor import CryptoProcessor\n"
        "CryptoProcessor({'a': 'x' * 16}, nonce_store='redis://localhost')"
    )
    return _without(scene, "redis", program=program)


@mistake(
    "encryption is used without the extra crypto",
    3,
    what="needs the extra crypto",
    where="CryptoProcessor",
    remedy="install rap[crypto]",
)
def without_crypto(scene: Scene) -> Any:
    program = "from rap.client.processor import CryptoProcessor\nCryptoProcessor('a', 'x' * 16)"
    return _without(scene, "cryptography", "Crypto", "Cryptodome", program=program)


@mistake(
    "the gateway is used without the extra gateway",
    3,
    what="needs starlette",
    where="rap.gateway",
    remedy="install rap[gateway]",
)
def without_gateway(scene: Scene) -> Any:
    return _without(scene, "starlette", program="import rap.gateway")


@mistake(
    "the command is used without the extra cli",
    3,
    what="needs click",
    where="the command rap",
    remedy="install rap[cli]",
)
def without_cli(scene: Scene) -> Any:
    return _without(scene, "click", program="from rap.cli import main\nmain()")


@mistake(
    "`rap serve --metrics-port` is used without the extra metrics",
    3,
    what="needs the extra metrics",
    where="'--metrics-port'",
    remedy="install rap[metrics]",
)
def serve_without_metrics(scene: Scene) -> Any:
    program = (
        "from rap.cli import main\n"
        "sys.argv[1:] = ['serve', 'shop:server', '--metrics-port', '0']\nmain()"
    )
    return _without(scene, "prometheus_client", program=program)


@mistake(
    "uvloop is asked for without the extra fast",
    3,
    what="needs uvloop",
    where="'--loop'",
    remedy="install rap[fast]",
)
def without_uvloop(scene: Scene) -> Any:
    program = (
        "from rap.cli import main\n"
        "sys.argv[1:] = ['serve', 'shop:server', '--loop', 'uvloop']\nmain()"
    )
    return _without(scene, "uvloop", program=program)
