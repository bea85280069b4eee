"""Shared state by URL: ``memory://``, or any Redis URL of `rap.redis.url`.

``?namespace=prod`` separates environments; the default is ``default``. ``?instances=20`` says how
many instances share the limits, and is used until Redis has told it; the default is 8.
"""

import re
from urllib.parse import parse_qsl, urlencode

from rap.clock import Clock
from rap.redis.url import REDIS_SCHEMES, RedisTarget
from rap.shared_state.base import SharedState
from rap.shared_state.memory import MemoryState

__all__ = ["state_from_url"]

_MAX_INSTANCES = 100_000
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def state_from_url(url: str, *, clock: Clock | None = None, option: str = "state") -> SharedState:
    """Return the shared state of a URL; it does not connect yet.

    Each call returns a new object. Two objects of ``memory://`` do not share their values.

    Args:
        url: A URL as above.
        clock: Source of time.
        option: The name of the option in errors.

    Raises:
        ValueError: The URL is invalid; the message does not contain its password.
        ImportError: The URL needs an extra that is not installed; the message names it.
    """
    if not isinstance(url, str):
        raise ValueError(f"{option} must be a URL such as redis://host:6379/0, got {url!r}")
    base, _, query = url.partition("?")
    scheme, separator, rest = base.partition("://")
    options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    namespace = options.pop("namespace", "default")
    if not _NAMESPACE.fullmatch(namespace):
        text = f"namespace must match {_NAMESPACE.pattern}, got {namespace!r}"
        raise ValueError(f"{option} {scheme}://: {text}")
    if separator and scheme == "memory":
        if rest or options:
            raise ValueError(f"{option}: memory:// takes nothing but a namespace, got {url!r}")
        return MemoryState(clock=clock)
    if not separator or scheme not in REDIS_SCHEMES:
        known = ", ".join(f"{name}://" for name in ("memory", *REDIS_SCHEMES))
        raise ValueError(f"{option}: unknown scheme {scheme!r}; known are {known}")
    instances = _instances(options.pop("instances", None), option)
    target = f"{base}?{urlencode(options)}" if options else base
    RedisTarget.parse(target)  # reports an invalid URL even if the extra is missing
    try:
        from rap.shared_state.redis import RedisState
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "redis":
            raise
        text = f"{scheme}:// needs the extra redis: install rap[redis]"
        raise ImportError(text, name="redis") from exc
    if instances is None:
        return RedisState(target, namespace=namespace, clock=clock)
    return RedisState(target, namespace=namespace, clock=clock, instances=instances)


def _instances(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_INSTANCES):
        raise ValueError(f"{option}: instances must be 1 to {_MAX_INSTANCES}, got {text!r}")
    return int(text)
