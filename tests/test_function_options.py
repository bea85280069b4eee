"""The options of functions: `register`, `bind`, `inject`, and those of each call.

Each is declared once. The signatures have them as keywords for type checkers, and these tests
compare both.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple, get_overloads

import pytest

from rap.call import CALL_OPTIONS
from rap.client import Client, Session
from rap.client.config import CallOptions, StubOptions
from rap.client.sync import SyncClient
from rap.client.sync.client import SyncSession
from rap.errors import InvalidArgument, RegistrationError
from rap.gateway import create_app
from rap.gateway.config import GatewayConfig
from rap.options import DeclaredOption, Option, Options, checks_options, declared_options
from rap.server import Server
from rap.server.config import HandlerOptions
from tests.loopback import serving
from tests.test_docs import sides

NONSENSE = object()


async def double(n: int) -> int:
    return 2 * n


class Interface:
    async def double(self, n: int) -> int: ...  # type: ignore[empty-body]  # declared only


class Surface(NamedTuple):
    """A function with options.

    Args:
        func: The function.
        declaration: The class that declares them.
        without: Those that it does not have.
        use: Calls it with options; it needs no more.
    """

    func: Callable[..., Any]
    declaration: type[Options]
    without: set[str]
    use: Callable[..., Any]


def registration(owner: type) -> list[Surface]:
    """Return the functions of a client that make stubs."""
    kind: Any = owner
    register, bind, inject = kind.register, kind.bind, kind.inject
    return [
        Surface(register, StubOptions, set(), lambda **o: kind().register(**o)),
        Surface(
            bind,
            StubOptions,
            {"name", "enable_type_check"},
            lambda **o: kind().bind(Interface, **o),
        ),
        Surface(inject, StubOptions, {"enable_type_check"}, lambda **o: kind().inject(double, **o)),
    ]


CHECKED = [
    Surface(create_app, GatewayConfig, set(), lambda **o: create_app("", Client(), **o)),
    Surface(Server.register, HandlerOptions, set(), lambda **o: Server().register(double, **o)),
    Surface(
        Server.allow_group,
        HandlerOptions,
        {*HandlerOptions.__annotations__} - {"group", "allow"},
        lambda **o: Server().allow_group(**{"group": "g", "allow": {"a"}, **o}),
    ),
    *registration(Client),
    *registration(SyncClient),
]
CALLS = [
    *(
        Surface(getattr(owner, name), CallOptions, set(), getattr(owner, name))
        for owner in (Client, SyncClient)
        for name in ("raw_call", "call", "iterator_call", "channel")
    ),
    Surface(Session.channel, CallOptions, {"session"}, Session.channel),
    Surface(SyncSession.channel, CallOptions, {"session"}, SyncSession.channel),
]
DECLARED = [
    pytest.param(surface, option, id=f"{surface.func.__qualname__} {option.name}")
    for surface in CHECKED
    for option in declared_options(surface.declaration)
    if option.name not in surface.without
]


@pytest.mark.parametrize("surface", CHECKED + CALLS, ids=lambda it: it.func.__qualname__)
def test_the_signature_has_the_declared_options_with_their_defaults(surface: Surface) -> None:
    declared = {it.name: it.default for it in declared_options(surface.declaration)}
    for func in (surface.func, *get_overloads(surface.func)):
        found = inspect.signature(func).parameters
        if func is not surface.func and len(found) == 2:  # the function, without options
            continue
        options = {name: it.default for name, it in found.items() if name in declared}
        assert options.keys() == declared.keys() - surface.without
        needed = {name for name, default in options.items() if default is inspect.Parameter.empty}
        assert needed == ({"group", "allow"} if func is Server.allow_group else set())
        for name in options.keys() - needed:
            assert (type(options[name]), options[name]) == (type(declared[name]), declared[name])


@pytest.mark.parametrize(("surface", "option"), DECLARED)
def test_an_option_that_is_spelt_wrong_fails_with_the_one_that_was_meant(
    surface: Surface, option: DeclaredOption
) -> None:
    with pytest.raises(TypeError) as caught:
        surface.use(**{f"{option.name}x": option.default})
    text = f"{surface.func.__qualname__} has no option '{option.name}x'; did you mean "
    assert str(caught.value) == f"{text}{option.name!r}?"


@pytest.mark.parametrize("surface", CHECKED, ids=lambda it: it.func.__qualname__)
def test_an_option_like_no_other_fails_with_a_list_of_those_there_are(surface: Surface) -> None:
    declared = {it.name for it in declared_options(surface.declaration)} - surface.without
    with pytest.raises(TypeError, match="'xyzzy'") as caught:
        surface.use(xyzzy=1)
    assert str(caught.value).endswith(f"the options are {', '.join(sorted(declared))}")


@pytest.mark.parametrize(
    ("meant", "given"), [("prefix", "prfeix"), ("group_filter", "group_fliter")]
)
def test_a_parameter_that_is_not_declared_as_an_option_is_suggested_too(
    meant: str, given: str
) -> None:
    wrong: dict[str, Any] = {given: ""}
    with pytest.raises(TypeError, match=f"no option {given!r}; did you mean {meant!r}?"):
        create_app("/api", Client(), **wrong)


@pytest.mark.parametrize(("surface", "option"), DECLARED)
def test_a_value_of_another_type_fails_by_the_name_of_its_option(
    surface: Surface, option: DeclaredOption
) -> None:
    with pytest.raises((ValueError, TypeError, RegistrationError)) as caught:
        surface.use(**{option.name: NONSENSE})
    assert str(caught.value).startswith(f"{option.name} must be ")
    assert repr(NONSENSE) in str(caught.value)


@pytest.mark.parametrize(("surface", "option"), DECLARED)
def test_a_bound_is_the_last_value_that_a_function_takes(
    surface: Surface, option: DeclaredOption
) -> None:
    for _, allowed, refused in sides(option):
        option.check(allowed)
        with pytest.raises(ValueError, match=f"^{option.name} must be"):
            surface.use(**{option.name: refused})


def test_options_by_place_are_checked_too() -> None:
    with pytest.raises(TypeError, match="group must be a string, got 5"):
        Client().register("double", 5)  # type: ignore[call-overload]  # that is the mistake
    with pytest.raises(RegistrationError, match="group must be 1 to 255 characters"):
        Server().register(double, "twice", "a/b")


def test_a_decorator_with_wrong_options_fails_before_it_has_a_function() -> None:
    with pytest.raises(ValueError, match="run_timeout must be more than 0 seconds, got -1"):
        Server().register(run_timeout=-1)


def test_a_group_of_a_rule_is_a_name() -> None:
    for group in (None, "", "a/b"):
        with pytest.raises(RegistrationError, match="group must be 1 to 255 characters"):
            Server().allow_group(group, {"a"})  # type: ignore[arg-type]  # that is the mistake


def test_a_checked_function_keeps_its_name_its_signature_and_its_other_arguments() -> None:
    class Declared(Options, frozen=True):
        size: Annotated[int, Option("Size of the thing.", least=1)] = 1

    @checks_options(Declared)
    def make(thing: str, size: int = 1) -> tuple[str, int]:
        """Make a thing."""
        return thing, size

    assert make("a") == ("a", 1)
    assert make(thing="a") == ("a", 1)
    assert (make.__name__, make.__doc__) == ("make", "Make a thing.")
    assert [*inspect.signature(make).parameters] == ["thing", "size"]


def test_a_checked_function_that_takes_all_options_has_them_in_its_signature() -> None:
    class Declared(Options, frozen=True, kw_only=True):
        size: Annotated[int, Option("Size of the thing.", least=1)] = 1
        name: Annotated[str | None, Option("Name of the thing.")] = None

    @checks_options(Declared)
    def make(thing: str, size: int = 1, **options: Any) -> dict[str, Any]:
        return {"thing": thing, "size": size, **options}

    assert make("a") == {"thing": "a", "size": 1}
    assert make("a", 2, name="b") == {"thing": "a", "size": 2, "name": "b"}
    with pytest.raises(ValueError, match="size must be"):
        make("a", 0)
    with pytest.raises(TypeError, match="did you mean 'name'"):
        make("a", nam="b")
    signature = inspect.signature(make)
    assert [*signature.parameters] == ["thing", "size", "name"]
    assert signature.parameters["name"].annotation == str | None
    assert signature.parameters["name"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "def make(" in inspect.getsource(make)


@pytest.mark.parametrize("given", [{"idempotent": False}, {"timeout": None}, {}])
def test_a_function_may_be_registered_with_options_that_are_the_defaults(given: Any) -> None:
    kind: Any = Client
    assert kind().register(double, **given).__name__ == "double"


@pytest.mark.parametrize("given", [{"idempotent": True}, {"timeout": 1}, {"group": "a"}])
def test_a_function_is_not_registered_with_options_in_the_same_call(given: Any) -> None:
    kind: Any = Client
    with pytest.raises(TypeError, match="write the options first"):
        kind().register(double, **given)


def test_the_options_of_stubs_are_options_of_calls() -> None:
    assert {*CALL_OPTIONS} == {each.name for each in declared_options(CallOptions)} - {
        "group",
        "arg_param",
        "kwarg_param",
    }


@pytest.mark.parametrize("value", [NONSENSE, 0, "", [], ()])
@pytest.mark.parametrize("option", ["session", "header", "affinity", "group", "kwarg_param"])
async def test_a_wrong_value_of_an_option_of_a_call_fails_by_its_name(
    option: str, value: Any
) -> None:
    if (option, value) in (("affinity", ""), ("group", "")):
        return  # a string
    async with serving(double) as server, Client(server.addresses) as client:
        for call in (partial(client.raw_call, "double", 1), partial(client.call, double, 1)):
            with pytest.raises((ValueError, TypeError, InvalidArgument)) as caught:
                await call(**{option: value})
            assert str(caught.value).startswith(f"{option} must be ")
            assert repr(value) in str(caught.value)


@pytest.mark.parametrize("option", CALL_OPTIONS)
async def test_an_option_of_a_call_that_is_spelt_wrong_is_suggested(option: str) -> None:
    async with serving(double) as server, Client(server.addresses) as client:
        stub: Any = client.register("double")(double)
        meant = f"unexpected keyword argument '{option}x'; did you mean '{option}'?"
        for call in (
            lambda **o: client.raw_call("double", 1, **o),
            lambda **o: client.call(double, 1, **o),
            lambda **o: stub(1, **o),
            lambda **o: stub.start(1, **o),
        ):
            with pytest.raises(InvalidArgument) as caught:
                await call(**{f"{option}x": None})
            assert meant in str(caught.value)
