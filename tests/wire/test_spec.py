"""The specification agrees with the code."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack

import rap
import rap.wire
from rap.call import FORWARDED, MESSAGES_END, PRIORITY, RESULT, TRAILER, UNTRACED
from rap.errors import Code
from rap.processor.compress import HEADER_NAME as DEFLATE
from rap.processor.encryption.sealing import HEADER_NAME as CRYPTO
from rap.schema.function import encode_any
from rap.wire import frames
from rap.wire.codec import MAX_DEPTH, MAX_ELEMENTS, pack
from rap.wire.frames import (
    DATA,
    HEADER_SIZE,
    KIND_NAMES,
    MAX_STREAM_ID,
    MESSAGE,
    MORE,
    parse_frames,
)
from rap.wire.hello import BOUNDS, VERSIONS, Limits, PeerLimits
from tests.wire.endpoints import KIB, WHOLE, Endpoint, data, make

SPEC = (Path(rap.wire.__path__[0]) / "PROTOCOL.md").read_text()
_LOCAL = ("fragment", "max_backlog")  # of no concern to a peer
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def example() -> list[tuple[str, bytes]]:
    """Return the sides and the bytes that they send, in turn."""
    (block,) = re.findall(r"```\n(client.*?)```", SPEC, re.DOTALL)
    found: list[tuple[str, bytes]] = []
    for line in block.splitlines():
        who, text = line[:8].strip(), re.match(r"(?:[0-9a-f]{2} ?)*", line[8:])
        assert text is not None
        if who:
            found.append((who, b""))
        found[-1] = (found[-1][0], found[-1][1] + bytes.fromhex(text.group()))
    return found


def size(text: str) -> int:
    """Return the number that the specification writes with a unit or as a power of two."""
    number, _, unit = text.strip().partition(" ")
    base, _, power = number.partition("^")
    value: int = int(base) ** int(power or 1)
    return value * UNITS[unit]


def test_the_example_is_what_two_endpoints_say() -> None:
    client, server = Endpoint(is_server=False), Endpoint(is_server=True)
    said: list[tuple[str, bytes]] = []

    def say(who: str) -> None:
        speaker, listener = (client, server) if who == "client" else (server, client)
        data = speaker.take_bytes()
        listener.feed(data)
        said.extend((who, frame.encode()) for frame in parse_frames(data))

    say("client")
    client.feed(server.take_bytes())  # the same Hello
    client.open(WHOLE, pack([1, 2]), pack(["/default/add", 9000]))
    say("client")
    server.protocol.send_response(server.protocol.streams[1], pack(3))
    say("server")
    client.open(WHOLE, pack([1, 2]), pack(["/default/nope", 9000]))
    say("client")
    stream = server.protocol.streams[3]
    server.protocol.reset_stream(stream, Code.NOT_FOUND, "no such function here.")
    say("server")
    client.protocol.ping(b"rap-ping")
    say("client")
    say("server")
    server.protocol.go_away(MAX_STREAM_ID, Code.OK, "draining")
    say("server")
    assert said == example()


def test_kinds_and_flags_have_the_numbers_of_the_specification() -> None:
    for number, name in enumerate(KIND_NAMES):
        assert re.search(rf"^\| {number} \| {name} \|", SPEC, re.MULTILINE | re.IGNORECASE)
    flags = re.findall(r"^\| [A-Z][\w, ]+ \| (\d+) \| ([A-Z]+) \|", SPEC, re.MULTILINE)
    assert len(flags) == 6
    for number, name in flags:
        assert getattr(frames, name) == int(number)


def test_limits_have_the_values_of_the_specification() -> None:
    rows = re.findall(r"^\| `(\w+)`: [^|]*\| ([^|]*)\| ([^|]*?) to ([^|]*)\|", SPEC, re.MULTILINE)
    assert [row[0] for row in rows] == [name for name in BOUNDS if name not in _LOCAL]
    for name, before, low, high in rows:
        assert getattr(PeerLimits(), name) == size(before)
        assert BOUNDS[name] == (size(low), size(high))


def test_version_depth_and_elements_are_those_of_the_specification() -> None:
    assert SPEC.startswith(f"# The rap wire protocol, version {VERSIONS.high}\n")
    assert f"nest at most {MAX_DEPTH} deep" in SPEC
    assert f"at most {MAX_ELEMENTS:,} elements" in SPEC


def test_limits_that_the_code_names_in_details_are_those_of_the_specification() -> None:
    code = "".join(path.read_text() for path in Path(rap.__path__[0]).rglob("*.py"))
    (row,) = (row for row in table("key of details") if row[0] == "`limit`")
    named = set(re.findall(r'"limit": "(\w+)"', code))
    assert named >= {"max_meta", "max_unfinished"}
    never_sent = {"ping_timeout", "throttle"}
    assert named - never_sent <= set(re.findall(r"`(\w+)`", row[3]))


def test_sections_that_the_code_names_exist() -> None:
    sections = set(re.findall(r"^#+ (\d+(?:\.\d+)?)[. ]", SPEC, re.MULTILINE))
    for path in Path(rap.wire.__path__[0]).glob("*.py"):
        named = set(re.findall(r"§(\d+(?:\.\d+)?)", path.read_text()))
        assert named <= sections, path.name


def table(title: str) -> list[list[str]]:
    """Return the cells of the rows of the table whose heading begins with `title`."""
    lines = SPEC[SPEC.index(f"\n| {title} |") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def number(cell: str) -> int:
    return int(cell.replace(",", "") or 0)


def test_the_worked_example_of_credit_is_what_a_receiver_does() -> None:
    window, frame = 64 * KIB, 16 * KIB
    limits = Limits(max_frame=frame, stream_window=window, connection_window=window)
    client = make(is_server=False, limits=limits)
    stream, protocol = client.open(), client.protocol
    client.take_bytes()
    first = data(stream.id, bytes(frame), MESSAGE | MORE)
    rest = data(stream.id, bytes(20_000 - frame))
    last = data(stream.id, bytes(5464 - HEADER_SIZE), MESSAGE | MORE)
    taken = [0]

    def take() -> None:
        events = [event for event in client.events if event[0] == DATA]
        protocol.acknowledge(stream, events[taken[0]][5])
        taken[0] += 1

    steps = [
        lambda: client.receive(first),
        lambda: client.receive(rest),
        lambda: client.receive(first, rest, first, rest),
        lambda: client.receive(last),
        take,
        take,
    ]
    rows = table("event | stream: left")
    for step, (event, *cells) in zip(steps, rows, strict=True):
        step()
        told = {each.stream_id: int.from_bytes(each.body, "big") for each in client.take_frames()}
        assert [number(cell) for cell in cells] == [
            window - stream.used,
            stream.consumed,
            stream.held,
            told.get(stream.id, 0),
            protocol.recv_window,
            protocol.consumed,
            told.get(0, 0),
        ], event


def test_types_travel_as_the_specification_says() -> None:
    @dataclass
    class Point:
        x: int

    class Colour(Enum):
        RED = "red"

    day = datetime(2020, 1, 1)
    values: list[tuple[Any, Any]] = [
        (day.replace(tzinfo=UTC), msgpack.Timestamp(1577836800)),
        (day, "2020-01-01T00:00:00"),
        (day.date(), "2020-01-01"),
        (day.time(), "00:00:00"),
        (timedelta(seconds=2), "PT2S"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        ((1, "a"), [1, "a"]),
        ({1}, [1]),
        (Point(1), {"x": 1}),
    ]
    for value, travels_as in values:
        assert msgpack.unpackb(encode_any(value)) == travels_as


def test_codes_and_reserved_headers_are_those_of_the_specification() -> None:
    named = {int(code): name for code, name, _ in table("code | name")}
    named |= {int(code): name for code, name in re.findall(r"(\d+) ([A-Z_]{5,})[,.]", SPEC)}
    assert named == {code.value: code.name for code in Code if code}
    headers = " ".join(row[0] for row in table("name | in"))
    reserved = {name for name in re.findall(r"`(\S+)`", headers) if name.startswith(":")}
    assert reserved == {
        ":attempt",
        ":batch",
        CRYPTO,
        DEFLATE,
        MESSAGES_END,
        PRIORITY,
        RESULT,
        TRAILER,
        UNTRACED,
    }
    assert f"`{FORWARDED}`" in headers
