from rap.transport.watchdog import Stalls


class Reader:
    """A stream with unread messages."""

    def __init__(self, *inbox: object) -> None:
        self.inbox = [*inbox]


def test_the_stream_unread_the_longest_is_first() -> None:
    stalls = Stalls()
    first, second, third = Reader("a"), Reader("b"), Reader("c")
    stalls.observe([second], 1.0)
    stalls.observe([first, second], 2.0)
    stalls.observe([third, first, second], 3.0)
    assert stalls.longest_first() == [second, first, third]


def test_a_reader_that_took_a_message_starts_over() -> None:
    stalls = Stalls()
    first, second = Reader(object(), object()), Reader(object())
    stalls.observe([first], 1.0)
    stalls.observe([first, second], 2.0)
    first.inbox.pop(0)
    stalls.observe([first, second], 3.0)
    assert stalls.longest_first() == [second, first]


def test_more_messages_do_not_start_a_reader_over() -> None:
    stalls = Stalls()
    first, second = Reader(object()), Reader(object())
    stalls.observe([first], 1.0)
    stalls.observe([second, first], 2.0)
    first.inbox.append(object())
    stalls.observe([second, first], 3.0)
    assert stalls.longest_first() == [first, second]


def test_streams_that_have_ended_are_forgotten() -> None:
    stalls = Stalls()
    stalls.observe([Reader(object())], 1.0)
    stalls.observe([], 2.0)
    assert stalls.longest_first() == []
