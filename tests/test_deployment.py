"""The files to deploy with: what they install, what they run as, and how it ends."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cli.programs import RUNNER, children_of, line_with
from tests.ports import free_address
from tests.redis_fixtures import limited_words, redis_deployed
from tests.redis_server import (
    HOW_TO_GET_ONE,
    DeployedRedis,
    RedisError,
    RedisServer,
    find_old_redis_server,
    find_redis_server,
    wait_until,
)

__all__ = ["redis_deployed"]

ROOT = Path(__file__).parents[1]
SHOP = ROOT / "examples" / "shop"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IN_IMAGE = re.search(r"EXTRAS = (.*)", (ROOT / "Makefile").read_text())
PIN = re.compile(r"^([a-z0-9-]+)==(\S+) \\$((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?$)+)", re.M)
IMAGE = re.compile(r"^(?:FROM|\s*(?:- )?image:) (\S+)", re.M)
EXACT = re.compile(r"\S+:v?\d+\.\d+\.\d+(-[\w.]+)*|\S+@sha256:[0-9a-f]{64}")
# Versions with a known vulnerability, by package: the last one that must not be allowed.
BROKEN = {
    "cryptography": "48.0.0",  # GHSA-537c-gmf6-5ccf
    "h11": "0.14",  # CVE-2025-43859
    "msgpack": "1.2.0",  # CVE-2026-57585
    "protobuf": "6.33.4",  # CVE-2026-0994
    "pycryptodome": "3.19.0",  # CVE-2023-52323
    "pydantic": "2.3",  # CVE-2024-3772
    "pygments": "2.19.2",  # CVE-2026-4539
    "requests": "2.32.5",  # CVE-2026-25645
    "starlette": "1.3.0",  # CVE-2026-54283
    "thrift": "0.23",  # CVE-2026-48586
    "tornado": "6.5.4",  # CVE-2026-31958
    "urllib3": "2.6.3",  # CVE-2026-44431
}


# What is installed.


def requirements(*extras: str) -> dict[str, Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return {each.name: each for each in map(Requirement, texts)}


def pins(path: str) -> dict[str, str]:
    """Return the packages of a lock file, all of which have hashes."""
    text = (ROOT / path).read_text()
    found = {name: version for name, version, _ in PIN.findall(text)}
    assert len(found) == len(re.findall(r"^[^\s#]", text, re.M))
    return found


@pytest.mark.parametrize(("name", "version"), BROKEN.items())
def test_no_extra_allows_a_version_with_a_known_vulnerability(name: str, version: str) -> None:
    found = requirements(*EXTRAS.keys() - {"dev", "all", "api_gateway"})
    assert not found[name].specifier.contains(version)


def test_the_image_has_what_its_extras_need_with_hashes() -> None:
    assert IN_IMAGE is not None
    locked = pins("image/requirements.txt")
    for name, needed in requirements(*IN_IMAGE[1].split()).items():
        assert needed.specifier.contains(locked[name]), name


def test_the_image_has_no_packages_that_are_not_maintained() -> None:
    locked = pins("image/requirements.txt").keys() | pins("image/build.txt").keys()
    assert not locked & {"jaeger-client", "opentracing", "thrift", "tornado", "six"}


def test_the_image_takes_nothing_from_a_registry_without_a_hash() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    steps = re.findall(r"pip (?:install|wheel) .*?(?=&&|$)", text, re.M)
    assert len(steps) == 4
    for step in steps:
        assert "--require-hashes" in step or "--no-deps" in step, step
        assert "--no-index" in step or "--no-build-isolation" in step or "--require-hashes" in step
    assert "hatchling" in pins("image/build.txt")


def images() -> Iterator[tuple[str, str]]:
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *ROOT.glob("k8s/**/*.yaml")]
    for path in [*files, SHOP / "Dockerfile", *SHOP.glob("*.yaml")]:
        arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", path.read_text(), re.M))
        for name in IMAGE.findall(path.read_text()):
            found = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", name)
            for argument, value in arguments.items():
                found = found.replace(f"${{{argument}}}", value)
            yield path.name, found


def test_every_image_has_an_exact_version() -> None:
    own = ("rap-example", "shop:dev")
    others = [(path, name) for path, name in images() if not name.startswith(own)]
    assert len(others) >= 10
    assert [each for each in others if not EXACT.fullmatch(each[1])] == []


def test_redis_has_the_same_version_everywhere() -> None:
    assert len({name for _, name in images() if name.startswith("redis:")}) == 1


@pytest.mark.parametrize(
    ("path", "count"), [("docker-compose.yml", 8), ("examples/shop/compose.yaml", 3)]
)
def test_every_service_of_compose_is_confined(path: str, count: int) -> None:
    text = (ROOT / path).read_text()
    services = text.partition("\nservices:\n")[2].partition("\nvolumes:")[0]
    blocks = re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", services, re.M)
    assert len(blocks) >= count
    template = text.partition("\nservices:\n")[0]
    for name, block in blocks:
        whole = template + block if "    <<: *" in block else block
        for line in (
            "read_only: true",
            "cap_drop: [ALL]",
            'security_opt: ["no-new-privileges:true"]',
        ):
            assert line in whole, name
        assert all(limit in whole for limit in ("mem_limit:", "cpus:", "pids_limit:")), name
        # That of the services is in the image.
        assert "healthcheck:" in block or "[rap, serve," in block, name


def test_every_container_of_kubernetes_is_confined() -> None:
    names = ("base/server.yaml", "base/gateway.yaml", "components/redis/redis.yaml")
    for path in [*(ROOT / "k8s" / name for name in names), SHOP / "kubernetes.yaml"]:
        text = path.read_text()
        for line in (
            "runAsNonRoot: true",
            "seccompProfile: {type: RuntimeDefault}",
            "automountServiceAccountToken: false",
            "allowPrivilegeEscalation: false",
            "readOnlyRootFilesystem: true",
            "capabilities: {drop: [ALL]}",
        ):
            assert line in text, path


# Redis.


@pytest.fixture(params=["new", "old"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeployedRedis]:
    find = find_redis_server if request.param == "new" else find_old_redis_server
    program = find()
    if program is None:
        pytest.skip(HOW_TO_GET_ONE)
    with DeployedRedis(tmp_path / "redis", program=program) as server:
        yield server


def test_redis_is_stopped_by_sigterm_for_it_replaces_the_shell(redis: DeployedRedis) -> None:
    assert Path(f"/proc/{redis.pid}/comm").read_text().startswith("redis-server")
    assert redis.terminate() == 0


def test_redis_starts_only_with_a_password() -> None:
    started = subprocess.run(
        ["sh", str(DeployedRedis.SCRIPT)], env={"PATH": os.environ["PATH"]}, capture_output=True
    )
    assert started.returncode == 2
    assert b"set REDIS_PASSWORD" in started.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("SAVE",),
        ("SHUTDOWN",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("MODULE", "LOAD", "/tmp/x.so"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "rap", "+@all"),
        ("MONITOR",),
        ("DEBUG", "SLEEP", "1"),
        ("GET", "others:key"),
        ("SET", "others:key", "1"),
        ("PUBLISH", "others", "1"),
        ("EVAL", "return redis.call('FLUSHALL')", "0"),
        ("EVAL", "return redis.call('GET', 'others:key')", "0"),
    ],
)
def test_the_user_of_redis_may_do_only_what_rap_does(
    redis_deployed: DeployedRedis, command: tuple[str, ...]
) -> None:
    refused = r"(?i)no permissions|can't run|doesn't have permission|command not allowed"
    with pytest.raises(RedisError, match=refused):
        redis_deployed.command(*command)


def test_redis_refuses_who_has_no_password(redis_deployed: DeployedRedis) -> None:
    class Stranger(DeployedRedis):
        PASSWORD = "a guess"

    for stranger, refusal in (
        (RedisServer(Path("/nowhere")), "NOAUTH"),
        (Stranger(Path("/nowhere")), "WRONGPASS"),
    ):
        stranger.port = redis_deployed.port
        with pytest.raises(RedisError, match=refusal):
            stranger.command("GET", "rap:services")


def test_the_script_and_the_page_allow_the_same() -> None:
    line = next(
        each for each in DeployedRedis.SCRIPT.read_text().splitlines() if "user rap " in each
    )
    script = line.partition("*} ")[2].split()
    page = [each for each in limited_words() if each not in ("on", ">secret", "+cluster|slots")]
    assert script == page


# Signals, as the first process of a container gets them: those without a handler are ignored.


@contextmanager
def first_process(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command as process 1 of a namespace."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *user, "--fork", "--pid", "--kill-child", "--"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no namespaces here")
    process = subprocess.Popen(
        [*unshare, *command],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def end_of(process: subprocess.Popen[str]) -> int:
    """Send SIGTERM to the command, and return its exit status."""
    (inner,) = children_of(process.pid)
    os.kill(inner, signal.SIGTERM)
    return process.wait(20)


def test_redis_as_the_first_process_ends_at_sigterm(tmp_path: Path) -> None:
    program = find_redis_server()
    if program is None:
        pytest.skip(HOW_TO_GET_ONE)
    server = DeployedRedis(tmp_path / "redis")
    places = tmp_path / "bin"
    places.mkdir()
    (places / "redis-server").symlink_to(program)
    env = {"PATH": f"{places}:{os.environ['PATH']}", "REDIS_PASSWORD": 'a"b'}
    command = ["sh", str(server.SCRIPT), "--port", str(server.port), "--bind", "127.0.0.1"]
    with first_process(command, env) as process:
        line_with(process, "Ready to accept connections")
        assert end_of(process) == 0


def test_a_server_as_the_first_process_ends_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(
        "from rap.server import Server\nserver = Server('127.0.0.1:0', drain_delay=0)\n"
    )
    command = [sys.executable, "-c", RUNNER, "serve", "first:server"]
    env = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONUNBUFFERED": "1"}
    with first_process(command, env) as process:
        line_with(process, "listening on")
        assert end_of(process) == 0


def test_a_client_that_still_connects_ends_at_sigterm_as_the_first_process() -> None:
    command = [sys.executable, "-m", "integration.app.load"]
    env = {"PYTHONPATH": str(ROOT), "APP_REGISTRY": f"static://{free_address()}"}
    with first_process(command, env) as process:
        line_with(process, "cannot reach")
        assert end_of(process) == 1


def test_a_password_of_any_characters_is_in_no_argument_of_redis(redis: DeployedRedis) -> None:
    wait_until(lambda: redis.command("PING") == "PONG", "Redis")
    arguments = Path(f"/proc/{redis.pid}/cmdline").read_bytes()
    assert redis.PASSWORD.encode() not in arguments
