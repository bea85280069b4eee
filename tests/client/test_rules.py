"""The rules of calls: attempts, codes, pauses, hedges and faults, of a client and a function."""

from contextlib import suppress
from typing import Any

import pytest

from rap.client import Client
from rap.client.retry import CallRules, HedgePolicy
from rap.errors import CallError, Code, Unavailable
from rap.server import Server
from tests.loopback import calling, eventually, serving, within
from tests.ports import free_address


def failing(code: Code) -> tuple[Any, list[int]]:
    """Return a function that fails twice with a code, and the numbers of its calls so far."""
    calls: list[int] = []

    async def work() -> int:
        calls.append(len(calls) + 1)
        if len(calls) < 3:
            raise CallError("not yet", code=code)
        return len(calls)

    return work, calls


async def outcome(client: Client, work: Any, **options: Any) -> Any:
    stub = client.register(idempotent=True, **options)(work)
    try:
        return await within(stub())
    except CallError as error:
        return error.code


async def test_the_codes_that_are_retried_are_the_choice_of_client_and_function() -> None:
    aborted: dict[str, Any] = {"retry_codes": [Code.ABORTED]}
    cases: list[tuple[dict[str, Any], dict[str, Any], Any]] = [
        ({}, {}, Code.ABORTED),
        (aborted, {}, 3),
        ({}, aborted, 3),
        (aborted, {"retry_codes": []}, Code.ABORTED),
        ({}, {**aborted, "max_attempts": 2}, Code.ABORTED),
        ({**aborted, "max_attempts": 2}, {"max_attempts": 3}, 3),
    ]
    for of_client, of_function, expected in cases:
        work, _ = failing(Code.ABORTED)
        options: dict[str, Any] = {"retry_pause": 0, **of_client}
        async with serving(work) as server, calling(server, **options) as client:
            assert await outcome(client, work, **of_function) == expected


async def test_unavailable_is_retried_unless_it_is_left_out() -> None:
    for codes, expected in [(None, 3), ([Code.ABORTED], Code.UNAVAILABLE), ([], Code.UNAVAILABLE)]:
        work, _ = failing(Code.UNAVAILABLE)
        async with serving(work) as server, calling(server) as client:
            assert await outcome(client, work, retry_codes=codes, retry_pause=0) == expected


async def test_a_function_that_is_not_idempotent_is_not_retried_for_a_code() -> None:
    work, calls = failing(Code.ABORTED)
    async with serving(work) as server, calling(server, retry_codes=[Code.ABORTED]) as client:
        with pytest.raises(CallError):
            await client.register(work)()
    assert calls == [1]


def test_pauses_double_up_to_twenty_times_the_first() -> None:
    rules = CallRules(retry_pause=0.1)
    assert [rules.pause(n) for n in (1, 2, 3, 5, 6, 50)] == pytest.approx(
        [0.1, 0.2, 0.4, 1.6, 2.0, 2.0]
    )
    assert [CallRules().pause(n) for n in (1, 5, 6)] == pytest.approx([0.05, 0.8, 1.0])


def test_own_rules_replace_those_of_the_client_where_they_are_given() -> None:
    rules = CallRules(max_attempts=7)
    assert rules.override({"max_attempts": None, "retry_pause": None}) is rules
    own = rules.override({"max_attempts": None, "retry_pause": 0.3, "wait_for_ready": False})
    assert (own.max_attempts, own.retry_pause, own.wait_for_ready) == (7, 0.3, False)


@pytest.mark.parametrize(("share", "calls"), [(0.05, 20), (0.5, 2), (1, 1)])
def test_hedges_are_a_share_of_the_calls(share: float, calls: int) -> None:
    client = Client(hedge_share=share)

    async def work() -> None: ...

    method = client.register(idempotent=True, hedge=0.1)(work).__rap_method__  # type: ignore[attr-defined]  # of stubs
    hedge = method.hedge
    assert isinstance(hedge, HedgePolicy)
    for n in range(calls):
        assert not hedge.allows, n
        hedge.delay(0.0)
    assert hedge.allows


def test_without_a_share_no_call_is_hedged() -> None:
    async def work() -> None: ...

    stub: Any = Client().register(idempotent=True, hedge=0.1, hedge_share=0)(work)
    assert stub.__rap_method__.hedge is None


async def test_a_function_says_how_long_its_calls_wait_for_a_server() -> None:
    async def work() -> None: ...

    client = Client(free_address(), wait_for_ready=True)
    stub: Any = client.register(wait_for_ready=False)(work)
    for call in (stub(), stub.start()):
        with pytest.raises(Unavailable, match=r"\(wait_for_ready=False\)"):
            await within(call)
    with pytest.raises(Unavailable, match=r"waited 0\.05 s \(wait_for_ready=0\.05\)"):
        await within(stub(wait_for_ready=0.05))
    await client.close()


async def ejections(fails: Server, answers: Server, work: Any, **options: Any) -> int:
    """Return how many servers are ejected in comparison with others within half a second."""
    of_function = {"fault_codes": options.pop("of_function", None)}
    async with calling(fails, answers, picker="round_robin", **options) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        stub = client.register(**of_function)(work)
        end = client.monotonic() + 0.5
        while client.monotonic() < end and not client.cluster.counters.outliers:
            with suppress(CallError):
                await within(stub())
        return client.cluster.counters.outliers


async def test_client_and_function_choose_which_errors_are_a_fault_of_the_server() -> None:
    async def work() -> None:
        raise CallError("no", code=Code.ABORTED)

    async def fine() -> None: ...

    async with serving(work) as fails, serving() as answers:
        answers.register(fine, name="work")
        aborted = [Code.ABORTED]
        assert await ejections(fails, answers, work) == 0
        assert await ejections(fails, answers, work, fault_codes=aborted) > 0
        assert await ejections(fails, answers, work, of_function=aborted) > 0
        assert await ejections(fails, answers, work, fault_codes=aborted, of_function=[]) == 0
        assert await ejections(fails, answers, work, fault_codes=aborted, eject_excess=1) == 0
        assert await ejections(fails, answers, work, fault_codes=aborted, max_ejected=0) == 0


@pytest.mark.parametrize("bad", ["UNAVAILABLE", [14], ["UNAVAILABLE"], 14, [None]])
@pytest.mark.parametrize("option", ["retry_codes", "fault_codes"])
def test_codes_are_a_list_of_codes(option: str, bad: Any) -> None:
    for make in (Client, Client().register):
        with pytest.raises(ValueError, match=f"{option} must be a list of codes such as Code.ABOR"):
            make(**{option: bad})
