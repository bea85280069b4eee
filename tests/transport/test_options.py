import pytest

from rap.transport import ConnectionOptions


@pytest.mark.parametrize("name", ["timeout", "handshake_timeout", "idle_timeout", "max_age"])
@pytest.mark.parametrize("value", [0, -1.0, "1", True, float("nan")])
def test_a_bad_time_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        ConnectionOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["timeout", "handshake_timeout"])
def test_some_timeouts_cannot_be_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of seconds, got None"):
        ConnectionOptions(**{name: None})  # type: ignore[arg-type]


def test_idle_timeout_and_max_age_can_be_none() -> None:
    options = ConnectionOptions(idle_timeout=None, max_age=None)
    assert (options.idle_timeout, options.max_age) == (None, None)


@pytest.mark.parametrize("value", [0, 4095, True, "8192", None])
def test_a_bad_size_of_the_write_buffer_is_named(value: object) -> None:
    with pytest.raises(ValueError, match="write_buffer must be an integer of at least 4096, got"):
        ConnectionOptions(write_buffer=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["max_cancels", "max_pings"])
@pytest.mark.parametrize("value", [0, True, 1.5, None])
def test_a_bad_rate_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got"):
        ConnectionOptions(**{name: value})  # type: ignore[arg-type]
