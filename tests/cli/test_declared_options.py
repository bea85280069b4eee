"""The options of commands that are the same as those of a client, a server or a call."""

from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from rap.cli.app import COMMANDS, rap
from rap.client.config import CallOptions, ClientConfig, StubOptions
from rap.options import DeclaredOption, Options, declared_options
from rap.server.config import ServerConfig
from tests.test_docs import sides

SAME: dict[str, tuple[type[Options], str]] = {
    "--service": (ClientConfig, "service"),
    "--ca": (ClientConfig, "ssl_ca_path"),
    "--pin": (ClientConfig, "ssl_crt_path"),
    "--cert": (ClientConfig, "ssl_client_crt_path"),
    "--key": (ClientConfig, "ssl_client_key_path"),
    "--registry-key": (ClientConfig, "registry_key"),
    "--crl": (ClientConfig, "ssl_crl_path"),
    "--server-name": (ClientConfig, "ssl_server_name"),
    "--identity": (ClientConfig, "ssl_identity"),
    "--token": (ClientConfig, "token"),
    "--token-without-tls": (ClientConfig, "token_without_tls"),
    "--timeout": (ClientConfig, "timeout"),
    "--group": (CallOptions, "group"),
    "--priority": (CallOptions, "priority"),
    "--idempotent": (StubOptions, "idempotent"),
    "--weight": (ServerConfig, "weight"),
    "--lease-ttl": (ServerConfig, "lease_ttl"),
}
OWN_TEXT = {"--registry-key", "--token", "--timeout"}  # they do more than the option of a client
NOT_THE_SAME = {("stub", "--group"), ("demo-replica", "--service")}


def options_of(command: str) -> dict[str, click.Option]:
    """Return the options of a command by their flags."""
    entry = COMMANDS[command]
    found: click.Command = getattr(import_module(entry.module), entry.attribute)
    return {each.opts[-1]: each for each in found.params if isinstance(each, click.Option)}


FOUND = [
    pytest.param(command, flag, id=f"{command} {flag}")
    for command in COMMANDS
    for flag in options_of(command)
    if flag in SAME and (command, flag) not in NOT_THE_SAME
]


def declared(flag: str) -> DeclaredOption:
    """Return the declaration of an option of commands."""
    config, name = SAME[flag]
    return next(each for each in declared_options(config) if each.name == name)


def refusal(command: str, flag: str, value: object) -> str:
    """Return what a command writes to standard error for the value of an option."""
    result = CliRunner().invoke(rap, [command, flag, str(value)])
    assert result.exit_code == 2
    return result.stderr


@pytest.mark.parametrize(("command", "flag"), FOUND)
def test_the_help_of_an_option_is_its_declaration(command: str, flag: str) -> None:
    option, found = declared(flag).option, options_of(command)[flag].help
    assert found is not None
    if flag not in OWN_TEXT:
        assert found.startswith(option.text[:20])
    assert option.bounds in found
    assert option.unit in found


@pytest.mark.parametrize(("command", "flag"), FOUND)
def test_a_value_beyond_a_bound_fails_by_the_name_of_the_option(command: str, flag: str) -> None:
    for _, _, refused in sides(declared(flag)):
        text = refusal(command, flag, refused)
        assert f"'{flag}'" in text
        assert ": it must be " in text


@pytest.mark.parametrize(("command", "flag"), FOUND)
def test_a_value_of_another_type_fails_by_the_name_of_the_option(command: str, flag: str) -> None:
    kind = declared(flag).kind
    if kind in (int, float):
        for value in ("x", "nan", "inf"):
            assert f"'{flag}'" in refusal(command, flag, value)
    if flag == "--token":
        assert "'--token': it must have 1 to 8192 bytes, got 0" in refusal(command, flag, "")


@pytest.mark.parametrize(("command", "flag"), FOUND)
def test_an_option_that_is_spelt_wrong_fails_with_the_one_that_was_meant(
    command: str, flag: str
) -> None:
    text = refusal(command, f"{flag}x", 1)
    assert f"No such option '{flag}x'" in text
    assert f"'{flag}'" in text.split("Did you mean", 1)[1]
