"""Errors that name options of a client name the flags of the command line too."""

import pytest

from rap.cli.command import error_text
from rap.errors import RegistryError, Unavailable


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ("ssl_ca_path", "--ca"),
        ("ssl_crl_path", "--crl"),
        ("ssl_server_name", "--server-name"),
        ("ssl_identity", "--identity"),
    ],
)
def test_an_option_in_an_error_is_told_with_its_flag(option: str, flag: str) -> None:
    text = f"its certificate is refused (option {option}: what to trust)"
    told = f"its certificate is refused (option {option}, here {flag}: what to trust)"
    assert error_text(Unavailable(text)) == f"UNAVAILABLE: {told}"
    assert error_text(RegistryError(text)) == told
