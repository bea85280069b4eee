"""Shared state from its URL: ``memory://`` or any Redis URL of `rap.redis.url`.

``?namespace=prod`` keeps environments apart; it is ``default`` if not given.
"""

import re
from urllib.parse import parse_qsl, urlencode

from rap.clock import Clock
from rap.redis.url import REDIS_SCHEMES, RedisTarget
from rap.shared_state.base import SharedState
from rap.shared_state.memory import MemoryState

__all__ = ["state_from_url"]

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def state_from_url(url: str, *, clock: Clock | None = None, option: str = "state") -> SharedState:
    """Return the shared state that a URL names; nothing is connected yet.

    Each call makes another state: what two of ``memory://`` know, they do not share.

    Args:
        url: As above.
        clock: Source of time.
        option: How errors call it.

    Raises:
        ValueError: The URL is none of these; the message does not have its password.
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
    target = f"{base}?{urlencode(options)}" if options else base
    RedisTarget.parse(target)  # what is wrong with the URL is said even if the extra is missing
    try:
        from rap.shared_state.redis import RedisState
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "redis":
            raise
        text = f"{scheme}:// needs the extra redis: install rap[redis]"
        raise ImportError(text, name="redis") from exc
    return RedisState(target, namespace=namespace, clock=clock)
