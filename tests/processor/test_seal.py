"""What was sealed for one place is worth nothing in any other, and nothing when it was changed."""

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from rap.call import Header
from rap.errors import CallError, Code, Unauthenticated
from rap.processor.encryption import library
from rap.wire.codec import pack, unpack
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto
from tests.processor.ends import Ends, Sealed

FRAMES = 20


@pytest.fixture(
    autouse=True, params=[library.openssl, library.pycryptodome], ids=["openssl", "pycryptodome"]
)
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rap.processor.encryption.sealing._LIBRARY", request.param())


def flips(data: bytes) -> Iterator[bytes]:
    """Yield `data` with each of its bits flipped."""
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def other_headers(header: Header) -> Iterator[Header]:
    """Yield the headers that come of flipping each bit of one, as far as they can be read."""
    for data in flips(pack(header)):
        try:
            changed = unpack(data)
        except ValueError:
            continue
        if isinstance(changed, dict) and all(isinstance(name, str) for name in changed):
            yield changed


async def refused(ends: Ends, sealed: Sealed, method: str = "/default/f") -> None:
    """Fail if the server takes it as an Open."""
    with pytest.raises(Unauthenticated):
        await ends.hear(ends.arriving(sealed, method), sealed)


# Every bit.


async def test_no_bit_of_a_request_can_be_flipped() -> None:
    ends = Ends()
    for number in range(FRAMES):
        header, body = await ends.ask(ends.call(), [number, "text"], trace=f"t{number}", depth=3)
        for changed in flips(body):
            await refused(ends, (header, changed))
        if number < 3:
            for other in other_headers(header):
                await refused(ends, (other, body))
        sealed = (header, body)
        assert await ends.hear(ends.arriving(sealed), sealed) == [number, "text"]


async def test_no_bit_of_an_answer_can_be_flipped() -> None:
    ends = Ends()
    for number in range(FRAMES):
        call, arrived = await ends.opened()
        header, body = await ends.answer(arrived, {"n": number}, cost=number)
        changes: list[Sealed] = [(header, changed) for changed in flips(body)]
        for sealed in changes + [(other, body) for other in other_headers(header)]:
            with pytest.raises(Unauthenticated):
                await ends.read(call, sealed)
        assert await ends.read(call, (header, body)) == {"n": number}


async def test_no_bit_of_an_error_can_be_flipped() -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    failure = (int(Code.UNKNOWN), "secret", {"type": "ValueError"})
    code, text, details = ends.server.process_error(arrived, failure)
    assert "secret" not in text
    for changed in flips(details["sealed"]):
        seen = ends.client.process_error(call, (code, text, {"sealed": changed}))
        assert seen[0] == Code.UNAUTHENTICATED
        assert seen[2] == {"reason": "seal"}
    for other in set(Code) - {code}:
        assert ends.client.process_error(call, (other, text, details))[0] == Code.UNAUTHENTICATED
    assert ends.client.process_error(call, (code, text, details)) == failure


async def test_no_bit_of_an_end_can_be_flipped() -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    proof = ends.server.send_end(arrived, None)
    for changed in flips(proof):
        with pytest.raises(Unauthenticated):
            ends.client.receive_end(call, changed)
    assert ends.client.receive_end(call, proof) is None


# Another place.


async def test_a_body_cannot_move_to_another_call() -> None:
    ends = Ends()
    one, two = await ends.ask(ends.call(), "one"), await ends.ask(ends.call(), "two")
    await refused(ends, (one[0], two[1]))
    await refused(ends, (two[0], one[1]))


async def test_a_later_message_or_an_answer_cannot_move_to_another_call() -> None:
    ends = Ends()
    (call, arrived), (other, other_arrived) = await ends.opened(), await ends.opened()
    sealed = await ends.ask(call, "later")
    with pytest.raises(Unauthenticated):
        await ends.hear(other_arrived, sealed)
    answer = await ends.answer(arrived, "answer")
    with pytest.raises(Unauthenticated):
        await ends.read(other, answer)


async def test_a_body_cannot_move_to_another_method() -> None:
    ends = Ends()
    sealed = await ends.ask(ends.call("/default/read"), "file")
    await refused(ends, sealed, "/default/delete")
    assert await ends.hear(ends.arriving(sealed, "/default/read"), sealed) == "file"


async def test_a_body_cannot_be_sent_back() -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    for sealed in (await ends.ask(call, "to the server"), await ends.ask(ends.call(), "first")):
        with pytest.raises(Unauthenticated):
            await ends.read(call, sealed)
    answer = await ends.answer(arrived, "to the client")
    with pytest.raises(Unauthenticated):
        await ends.hear(arrived, answer)


async def test_messages_cannot_change_their_order_or_be_left_out_or_come_twice() -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    first, second = await ends.ask(call, 1), await ends.ask(call, 2)
    with pytest.raises(Unauthenticated):
        await ends.hear(arrived, second)
    assert await ends.hear(arrived, first) == 1
    with pytest.raises(Unauthenticated):
        await ends.hear(arrived, first)
    assert await ends.hear(arrived, second) == 2


async def test_a_body_cannot_move_to_another_connection() -> None:
    ends, other = Ends(), Ends()
    await refused(other, await ends.ask(ends.call(), "here"))


async def test_a_message_is_no_end_and_an_end_no_message() -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    message = (await ends.answer(arrived, None))[1]
    with pytest.raises(Unauthenticated):
        ends.client.receive_end(call, message)
    assert await ends.read(call, ({}, message)) is None
    with pytest.raises(Unauthenticated):
        await ends.read(call, ({}, ends.server.send_end(arrived, None)))


async def test_an_end_before_the_last_message_is_refused() -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    await ends.answer(arrived, "lost on the way")
    with pytest.raises(Unauthenticated):
        ends.client.receive_end(call, ends.server.send_end(arrived, None))


@pytest.mark.parametrize("end", [None, b"", "end"])
async def test_a_plain_end_is_refused(end: Any) -> None:
    ends = Ends()
    call, _ = await ends.opened()
    with pytest.raises(Unauthenticated):
        ends.client.receive_end(call, end)


async def test_headers_can_be_neither_added_nor_changed_nor_removed() -> None:
    ends = Ends()
    header, body = await ends.ask(ends.call(), "body", user="ann")
    added = {**header, "admin": True}
    changed = {**header, "user": "bob"}
    removed = {name: value for name, value in header.items() if name != "user"}
    for other in (added, changed, removed):
        await refused(ends, (other, body))


# Keys.


async def test_a_body_under_another_key_or_none_is_refused() -> None:
    ends = Ends(client=ClientCrypto(KEY_ID, secrets.token_bytes(16)))
    await refused(ends, await ends.ask(ends.call(), "body"))
    await refused(ends, ({}, "body"))
    await refused(ends, ({}, b"x" * 40))


@pytest.mark.parametrize(
    "token",
    [None, "demo_id", [], ["demo_id"], ["demo_id", b"short"], [7, bytes(16)], [KEY_ID, "x"]],
)
async def test_a_malformed_token_is_refused(token: Any) -> None:
    ends = Ends()
    _, body = await ends.ask(ends.call(), "body")
    await refused(ends, ({":crypto": token}, body))


@pytest.mark.parametrize("body", [None, "plain", 7, b"", b"x" * 23, bytearray(40), ["list"]])
async def test_what_is_not_sealed_is_refused(body: Any) -> None:
    ends = Ends()
    call, arrived = await ends.opened()
    with pytest.raises(Unauthenticated):
        await ends.hear(arrived, ({}, body))
    with pytest.raises(Unauthenticated):
        await ends.read(call, ({}, body))


async def test_both_directions_and_every_connection_have_their_own_keys() -> None:
    ends, other = Ends(), Ends()
    seen = set()
    for each in (ends, other):
        call, arrived = await each.opened()
        seen.add((await each.ask(call, "same"))[1])
        seen.add((await each.answer(arrived, "same"))[1])
    assert len(seen) == 4


async def test_the_counter_of_a_key_never_goes_back() -> None:
    ends = Ends()
    counters = []
    for _ in range(3):
        counters.append((await ends.ask(ends.call(), 1))[1][:8])
        ends.client.use_key("other", "z" * 32)
        await ends.ask(ends.call(), 1)
        ends.client.use_key(KEY_ID, KEY)
    assert counters == sorted(set(counters))


async def test_two_processors_with_one_key_share_the_counter_of_a_connection() -> None:
    binding = secrets.token_bytes(32)
    one, two = Ends(binding=binding), Ends(binding=binding)
    two.here = one.here
    bodies = [(await each.ask(each.call(), 1))[1] for each in (one, two)]
    assert bodies[0][:8] != bodies[1][:8]


async def test_without_random_numbers_in_both_hellos_nothing_is_sent() -> None:
    ends = Ends(binding=b"")
    with pytest.raises(Unauthenticated, match="16 to 64 random bytes"):
        await ends.ask(ends.call(), "body")


# Errors.


async def test_an_error_without_a_seal_is_no_exception_of_the_handler() -> None:
    ends = Ends()
    call, _ = await ends.opened()
    seen = ends.client.process_error(call, (2, "said by who knows", {"type": "KeyError", "n": 1}))
    assert seen == (2, "said by who knows", {"n": 1})


async def test_an_error_before_the_caller_has_shown_a_key_stays_clear() -> None:
    ends = Ends()
    sealed = await ends.ask(ends.call(), 1)
    failure = (int(Code.UNAUTHENTICATED), "no", {"reason": "plain"})
    assert ends.server.process_error(ends.arriving(sealed), failure) == failure


async def test_an_error_cannot_move_to_another_call() -> None:
    ends = Ends()
    (_, arrived), (other, _) = await ends.opened(), await ends.opened()
    failure = ends.server.process_error(arrived, (2, "text", {}))
    assert ends.client.process_error(other, failure)[0] == Code.UNAUTHENTICATED


async def test_a_header_that_cannot_be_sent_is_named() -> None:
    ends = Ends()
    with pytest.raises(CallError, match="header") as caught:
        await ends.ask(ends.call(), 1, thing=object())
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_a_new_attempt_has_a_new_nonce() -> None:
    ends = Ends(server=ServerCrypto({KEY_ID: KEY}))
    call = ends.call()
    first = await ends.ask(call, 1)
    call.attempt = 2
    second = await ends.ask(call, 1)
    assert first[0][":crypto"][1] != second[0][":crypto"][1]
    for sealed in (first, second):
        assert await ends.hear(ends.arriving(sealed), sealed) == 1
