"""How the end of a call is named."""

import asyncio
import math

import pytest

from rap.call import DEFAULT_PRIORITY, Call, Header, Request, Side, StreamType, current
from rap.errors import CallError, Code, DeadlineExceeded, NotFound
from rap.processor.base import outcome


class Ended:
    """A call that was ended from outside."""

    deadline = math.inf
    method = "/default/f"
    draining = False
    priority = DEFAULT_PRIORITY
    header: Header = {}  # noqa: RUF012  # nobody writes to it

    def __init__(self, error: CallError | None) -> None:
        self.error = error

    def set_header(self, name: str, value: object) -> None: ...

    def set_trailer(self, name: str, value: object) -> None: ...

    is_over = False

    def excuse(self) -> None: ...

    def keep_thread(self, running: object) -> None: ...

    def request(self) -> Request:
        return Request(Call("/default/f", StreamType.UNARY, Side.SERVER, {}))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, Code.OK),
        (GeneratorExit(), Code.OK),
        (NotFound("f"), Code.NOT_FOUND),
        (CallError("f", code=Code.ABORTED), Code.ABORTED),
        (RuntimeError("f"), Code.UNKNOWN),
        (asyncio.CancelledError(), Code.CANCELLED),
    ],
)
def test_an_error_has_a_code(error: BaseException | None, code: Code) -> None:
    assert outcome(error) is code


@pytest.mark.parametrize(
    ("error", "code"), [(DeadlineExceeded("f"), Code.DEADLINE_EXCEEDED), (None, Code.CANCELLED)]
)
def test_a_cancelled_handler_has_the_code_of_what_ended_its_call(
    error: CallError | None, code: Code
) -> None:
    token = current.set(Ended(error))
    try:
        assert outcome(asyncio.CancelledError()) is code
    finally:
        current.reset(token)
