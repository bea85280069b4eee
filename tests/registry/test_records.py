import pytest

from rap.address import Address
from rap.registry import Endpoint, State
from rap.registry.records import from_record, to_record
from tests.registry.sample import make_endpoint


def test_a_record_gives_the_endpoint_back() -> None:
    endpoint = Endpoint(
        "unix:///run/x.sock",
        Address("unix", path="/run/x.sock"),
        1000,
        State.DRAINING,
        "abc",
        "zone-1",
        {"version": "1.2", "methods_hash": "ff", "team": "x"},
    )
    record = to_record(endpoint)
    assert (record["version"], record["methods_hash"]) == ("1.2", "ff")
    assert record["meta"] == {"team": "x"}
    assert from_record(endpoint.id, record) == endpoint


def test_the_order_of_metadata_does_not_change_a_record() -> None:
    one = to_record(make_endpoint(metadata={"a": "1", "b": "2"}))
    two = to_record(make_endpoint(metadata={"b": "2", "a": "1"}))
    assert str(one) == str(two)


def test_unknown_fields_are_ignored() -> None:
    endpoint = make_endpoint()
    assert from_record(endpoint.id, {**to_record(endpoint), "later": [1]}) == endpoint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("addr", None),
        ("addr", "no port"),
        ("weight", 0),
        ("weight", "1"),
        ("state", "asleep"),
        ("state", 1),
        ("incarnation", b"x"),
        ("zone", None),
        ("meta", []),
    ],
)
def test_a_bad_field_is_named(field: str, value: object) -> None:
    record = {**to_record(make_endpoint()), field: value}
    with pytest.raises(ValueError, match=f"{field}|asleep"):
        from_record("x", record)


def test_a_record_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a mapping"):
        from_record("x", ["addr"])
