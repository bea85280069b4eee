"""Options that are no numbers: what is refused, and that the error helps to put it right."""

import inspect
from inspect import Parameter
from typing import Any

import pytest
from opentracing.mocktracer import MockTracer

from rap.client import Client
from rap.client.config import ClientConfig
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.client.sync import SyncClient
from rap.errors import RegistrationError
from rap.options import Options, as_list, check_flag, declared_options
from rap.processor.base import BaseProcessor
from rap.server import Server
from rap.server.config import ServerConfig
from rap.server.middleware import ConnLimitMiddleware, IpBlockMiddleware, IpMaxConnMiddleware
from rap.server.processor import (
    CompressProcessor,
    LimitProcessor,
    OpenTelemetryProcessor,
    PrometheusProcessor,
    Rule,
    TracingProcessor,
)
from rap.server.processor import CryptoProcessor as ServerCrypto

KEY = "a key of 16 byte"


async def fine() -> int:
    return 1


@pytest.mark.parametrize(
    ("make", "option", "text"),
    [
        (Server, "timout", "Server has no option 'timout'; did you mean 'timeout'?"),
        (Server, "ssl_crt", "Server has no option 'ssl_crt'; did you mean 'ssl_crt_path'?"),
        (Server, "processors_list", "did you mean 'processor_list'?"),
        (Client, "timout", "Client has no option 'timout'; did you mean 'timeout'?"),
        (Client, "weight", "Client has no option 'weight'; "),
        (SyncClient, "timout", "Client has no option 'timout'; did you mean 'timeout'?"),
    ],
)
def test_a_typo_in_an_option_is_named_with_what_was_meant(
    make: Any, option: str, text: str
) -> None:
    with pytest.raises(TypeError) as caught:
        make(**{option: 3})
    assert text in str(caught.value)


def test_an_option_like_no_other_lists_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"no option 'xyzzy'; .* are .*host, .*run_timeout"):
        Server(xyzzy=3)  # type: ignore[call-arg]  # that is the mistake
    with pytest.raises(TypeError, match="no option 'addresses'"):  # a field, but not for users
        Server(addresses=())  # type: ignore[call-arg]  # that is the mistake


@pytest.mark.parametrize("value", ["no", "yes", 1, 0, None])
def test_a_flag_is_a_bool_for_any_text_would_count_as_true(value: Any) -> None:
    with pytest.raises(ValueError, match="debug must be True or False, got "):
        check_flag("debug", value)


@pytest.mark.parametrize("option", ["debug", "allow_load"])
def test_flags_of_a_server_are_checked(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be True or False, got 'no'"):
        Server(**{option: "no"})  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.parametrize("option", ["is_private", "idempotent", "inline"])
def test_flags_of_a_function_are_checked(option: str) -> None:
    def plain() -> int:
        return 1

    options: dict[str, Any] = {option: "no"}
    with pytest.raises(ValueError, match=f"{option} must be True or False, got 'no'"):
        Server().register(plain, **options)


@pytest.mark.parametrize("option", ["idempotent", "enable_type_check"])
def test_flags_of_a_stub_are_checked(option: str) -> None:
    options: dict[str, Any] = {option: "no"}
    with pytest.raises(ValueError, match=f"{option} must be True or False, got 'no'"):
        Client().register(**options)
    if option == "idempotent":
        with pytest.raises(ValueError, match="idempotent must be True or False, got 'no'"):
            Client().bind(Client, **options)


@pytest.mark.parametrize("value", [3, None, print, "text", b"text"])
def test_a_list_is_a_list(value: Any) -> None:
    with pytest.raises(TypeError, match="some_list must be a list, got "):
        as_list("some_list", value)
    assert as_list("some_list", (1, 2)) == [1, 2]
    assert as_list("some_list", iter([3])) == [3]


@pytest.mark.parametrize(
    "option", ["start_event_list", "stop_event_list", "middleware_list", "processor_list"]
)
def test_one_event_or_processor_instead_of_a_list_is_refused_by_the_option(option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a list, got "):
        Server(**{option: print})  # type: ignore[arg-type]  # that is the mistake
    loader = getattr(Server(), "load_" + option.removesuffix("_list"))
    with pytest.raises(TypeError, match=f"{loader.__name__} must be a list, got 3"):
        loader(3)


def test_a_client_wants_lists_too() -> None:
    one: Any = BaseProcessor()
    with pytest.raises(TypeError, match="processor_list must be a list, got "):
        Client(processor_list=one)
    with pytest.raises(TypeError, match="load_processor must be a list, got "):
        Client().load_processor(one)
    error: Any = ValueError
    with pytest.raises(TypeError, match="load_exception takes a list of exception classes, got "):
        Client().load_exception(error)


def test_a_processor_of_the_other_side_is_refused_for_it_would_do_nothing_there() -> None:
    for_client, for_server = ClientCrypto("k", KEY), ServerCrypto({"k": KEY})
    with pytest.raises(TypeError, match=r"for a server; .* for a client from rap\.client\.pro"):
        Client(processor_list=[for_server])
    with pytest.raises(TypeError, match=r"for a client; .* for a server from rap\.server\.pro"):
        Server(processor_list=[for_client])
    server = Server()
    with pytest.raises(TypeError, match=r"load_processor: ClientCryptoProcessor is for a client"):
        server.load_processor([BaseProcessor(), for_client])
    assert server._processors == []  # all or none


def test_the_same_processor_twice_in_one_list_is_refused() -> None:
    twice = BaseProcessor()
    with pytest.raises(ValueError, match="is loaded already"):
        Client(processor_list=[twice, twice])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"zone": 4}, "zone must be a string, got 4"),
        ({"host": b"localhost:1"}, "host must be an address or a list of addresses, got b'local"),
        ({"service": "s", "registry": 5}, "registry must be a URL or a Registry, got 5"),
    ],
)
def test_values_of_another_type_are_refused_by_their_option(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Server(**options)


@pytest.mark.parametrize("what", [5, "fine", ["fine"], None.__class__])
def test_what_has_no_functions_of_its_own_is_not_registered(what: Any) -> None:
    with pytest.raises(RegistrationError, match="takes a function, a class or an object"):
        Server().register(what)


def test_the_name_of_a_stub_is_a_string() -> None:
    name: Any = 5
    with pytest.raises(TypeError, match="name must be a string, got 5"):
        Client().register(name)


def test_a_store_of_nonces_is_named_by_its_option() -> None:
    with pytest.raises(ValueError, match="nonce_store: unknown scheme 'gopher'"):
        ServerCrypto({"k": KEY}, nonce_store="gopher://x")


# Every option of every constructor refuses what nobody can mean, by its name and with the value.

NONSENSE = object()
CONFIGS: dict[Any, type[Options]] = {
    Server: ServerConfig,
    Client: ClientConfig,
    SyncClient: ClientConfig,
}
NEEDED: dict[Any, dict[str, Any]] = {
    ClientCrypto: {"key_id": "k", "key": KEY},
    ServerCrypto: {"keys": {"k": KEY}},
    LimitProcessor: {"backend": "memory://", "rule_list": [(print, Rule(second=1))]},
    Rule: {"second": 1},
    TracingProcessor: {"tracer": MockTracer()},
}
BESIDE: dict[str, dict[str, Any]] = {
    "registry": {"service": "s"},
    "service": {"registry": "memory://"},
}
SECRET = {"key", "keys", "registry_key", "token"}  # errors must not show these
KINDS: list[Any] = [
    *(Server, Client, SyncClient, ClientCrypto, ServerCrypto, LimitProcessor, Rule),
    *(ConnLimitMiddleware, IpMaxConnMiddleware, IpBlockMiddleware, CompressProcessor),
    *(PrometheusProcessor, OpenTelemetryProcessor, TracingProcessor),
]


def options_of(kind: Any) -> list[str]:
    parameters = [name for name in inspect.signature(kind).parameters if name != "options"]
    config = CONFIGS.get(kind)
    fields = [] if config is None else [each.name for each in declared_options(config)]
    return [*parameters, *fields]


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, option) for kind in KINDS for option in options_of(kind)]
)
def test_every_option_refuses_nonsense_by_its_name_and_with_the_value(
    kind: Any, option: str
) -> None:
    beside = BESIDE.get(option, {}) if kind in CONFIGS else {}
    with pytest.raises((ValueError, TypeError)) as caught:
        kind(**{**NEEDED.get(kind, {}), **beside, option: NONSENSE})
    assert option in str(caught.value)
    assert (repr(NONSENSE) in str(caught.value)) is (option not in SECRET)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_the_first_argument_has_a_name(kind: Any) -> None:
    places = {ClientCrypto: 2, LimitProcessor: 2}.get(kind, 1)  # as their documentation has it
    kinds = [each.kind for each in inspect.signature(kind).parameters.values()]
    assert {Parameter.POSITIONAL_OR_KEYWORD, Parameter.POSITIONAL_ONLY}.isdisjoint(kinds[places:])


@pytest.mark.parametrize("option", ["ssl_crt_path", "ssl_ca_path", "ssl_client_crt_path"])
def test_an_empty_path_does_not_mean_no_tls(option: str) -> None:
    options: dict[str, Any] = {option: ""}
    with pytest.raises(ValueError, match=f"{option} must be the path of a PEM file, got ''"):
        Client(**options)
