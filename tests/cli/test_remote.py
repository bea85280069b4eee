"""Options that all commands share. Real connections show that they are used."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rap.server import Server
from tests.cli.shop import invoke, shop
from tests.transport.certificates import Certificates


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def server(files: Certificates) -> AsyncIterator[Server]:
    async with shop(
        ssl_crt_path=files.server.crt_path, ssl_key_path=files.server.key_path
    ) as server:
        yield server


@pytest.fixture
async def strict(files: Certificates) -> AsyncIterator[Server]:
    """Run a server that wants to see certificates of clients."""
    async with shop(
        ssl_crt_path=files.server.crt_path,
        ssl_key_path=files.server.key_path,
        ssl_ca_path=files.authority.crt_path,
    ) as server:
        yield server


@pytest.mark.parametrize("command", [["call", "add", "1"], ["ping", "-n", "1", "-q"], ["ls"]])
async def test_authorities_and_a_pinned_certificate_are_used(
    server: Server, files: Certificates, command: list[str]
) -> None:
    for option, good, bad in (
        ("--ca", files.authority, files.other_authority),
        ("--pin", files.server, files.second_server),
    ):
        result = await invoke(server, *command, option, good.crt_path)
        assert (result.stderr, result.exit_code) == ("", 0)
        result = await invoke(server, *command, option, bad.crt_path)
        assert result.exit_code == 1
        assert "certificate" in result.output


async def test_a_client_certificate_is_sent_to_a_server_that_requires_one(
    strict: Server, files: Certificates
) -> None:
    trusting = ("call", "add", "1", "--ca", files.authority.crt_path)
    own = ("--cert", files.client.crt_path, "--key", files.client.key_path)
    assert (await invoke(strict, *trusting, *own)).stdout == "2\n"
    result = await invoke(strict, *trusting, "--timeout", "1")
    assert (result.stdout, result.exit_code) == ("", 1)


async def test_a_file_that_is_not_a_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "no.pem"
    file.write_text("no certificate")  # a small file
    for option in ("--ca", "--pin"):
        result = await invoke(None, "call", "add", option, str(file))
        assert result.exit_code == 2
        assert f"Error: {option}" in result.stderr
        assert str(file) in result.stderr


async def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    async with shop(host=f"unix://{tmp_path}/s") as server:
        assert (await invoke(server, "call", "add", "1")).stdout == "2\n"


async def test_a_client_without_tls_learns_that_the_server_may_require_it(server: Server) -> None:
    address = str(server.addresses[0]).removeprefix("tls://")
    result = await invoke(None, "call", "add", "1", "--host", address)
    assert result.exit_code == 1
    assert "TLS" in result.stderr


@pytest.mark.parametrize("option", ["--timeout", "--token"])
async def test_a_negative_number_is_the_value_of_the_option_before_it(option: str) -> None:
    def verify(token: object, _: object) -> str | None:
        return "me" if token == "-5" else None

    async with shop(verify_token=verify) as server:
        result = await invoke(server, "call", "add", "-1", option, "-5")
    if option == "--token":
        assert (result.stdout, result.exit_code) == ("0\n", 0)
    else:
        assert "it must be more than 0 seconds, got -5" in result.stderr


@pytest.mark.parametrize("command", [["call", "f"], ["ls"], ["ping"], ["top"], ["bench", "f"]])
async def test_a_service_needs_a_registry(command: list[str]) -> None:
    result = await invoke(None, *command, "--service", "shop")
    assert "--service shop needs --registry, which lists its servers" in result.stderr
    assert result.exit_code == 2
