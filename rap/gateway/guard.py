"""Which requests may call functions: by host, origin, content type, and the hook of the user.

A browser sends requests to any address that a web page names, with the cookies of the user and from
the user's network. The rules here keep pages of other origins from calling functions (WHATWG Fetch,
section 3.2; RFC 6454).
"""

import inspect
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from rap.errors import PermissionDenied, Unauthenticated
from rap.gateway.errors import BadRequest, status_of

__all__ = ["Guard", "Hosts", "check_hosts", "check_origins", "checked_names"]

_AUTHORITY = r"(\[[0-9a-f:.]+\]|[^\s/:@?#\\\[\]]+)(?::([0-9]{1,5}))?"
_HOST = re.compile(_AUTHORITY)
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_AUTHORITY}")
_PORTS = {"http": 80, "https": 443}
_ANY = "*"
# What a page of another origin can post without asking has none of these types.
_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.+-]+\+)?json")


class Hosts:
    """The names of hosts that requests may have.

    Args:
        allowed: The names, or ``*.domain``.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._hosts = frozenset(map(str.lower, allowed))

    def check(self, connection: HTTPConnection) -> None:
        """Check the host that a request names.

        Raises:
            BadRequest: It is not allowed.
        """
        if not self._knows(_only(connection, "host")):
            raise BadRequest(421, "this host is not one of allowed_hosts")

    def _knows(self, text: str | None) -> bool:
        found = _HOST.fullmatch((text or "").lower())
        if found is None:
            return False
        name = found[1]
        if name in self._hosts or _ANY in self._hosts:
            return True
        _, _, parents = name.partition(".")
        while parents:
            if f"*.{parents}" in self._hosts:
                return True
            _, _, parents = parents.partition(".")
        return False


class Guard:
    """Decides which requests are served.

    Args:
        allowed_origins: Origins of pages whose requests are served, or ``*``; `None`: those of the
            host that the request names.
        authorize: The hook of the user; see `create_app`.
    """

    def __init__(
        self,
        allowed_origins: Collection[str] | None,
        authorize: Callable[[HTTPConnection], object] | None,
    ) -> None:
        self._allows_any_origin = allowed_origins is not None and _ANY in allowed_origins
        self._origins = None
        if allowed_origins is not None:
            self._origins = {_parse_origin(each) for each in allowed_origins if each != _ANY}
        self._authorize = authorize

    def check(self, connection: HTTPConnection) -> None:
        """Check the origin of a request.

        Raises:
            BadRequest: It is not allowed.
        """
        host = _only(connection, "host")
        if "origin" in connection.headers and not self._allows(_only(connection, "origin"), host):
            text = "pages of this origin may not call functions"
            raise BadRequest(403, f"{text} (option allowed_origins of the gateway)")

    def check_type(self, connection: HTTPConnection, *others: str) -> str:
        """Return the media type of the body of a request.

        Args:
            connection: The request.
            others: Types that are accepted besides JSON.

        Raises:
            BadRequest: It is not accepted.
        """
        found = (_only(connection, "content-type") or "").partition(";")[0].strip().lower()
        if not (_JSON.fullmatch(found) or found in others):
            names = ", ".join(["application/json", *others])
            got = repr(found) if found else "none"
            raise BadRequest(415, f"the Content-Type must be one of {names}, got {got}")
        return found

    async def authorize(self, connection: HTTPConnection) -> None:
        """Ask the hook of the user whether a request is served.

        Raises:
            BadRequest: It is not.
            CallError: The hook has raised another one.
            TypeError: The hook has returned neither `True` nor `False`.
        """
        if self._authorize is None:
            return
        try:
            verdict = self._authorize(connection)
            if inspect.isawaitable(verdict):
                verdict = await verdict
        except HTTPException as exc:
            raise BadRequest(exc.status_code, exc.detail, exc.headers) from exc
        except (Unauthenticated, PermissionDenied) as exc:
            raise BadRequest(status_of(exc), exc.message) from exc
        if verdict is False:
            raise BadRequest(401, "the request is not authorized")
        if verdict is not True:  # anything else might be true without meaning it
            kind = type(verdict).__name__
            raise TypeError(f"authorize must return True or False, got an object of type {kind}")

    def _allows(self, origin: str | None, host: str | None) -> bool:
        if self._allows_any_origin:
            return True
        parsed = _parse_origin(origin or "")
        if parsed is None:  # such as `null`, which any page can bring about
            return False
        if self._origins is not None:
            return parsed in self._origins
        own = _HOST.fullmatch((host or "").lower())
        if own is None or parsed.scheme not in _PORTS:
            return False
        # A proxy may end TLS, so that the scheme of the request says nothing.
        port = _PORTS[parsed.scheme] if own[2] is None else int(own[2])
        return (parsed.host, parsed.port) == (own[1], port)


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None


def _parse_origin(text: str) -> _Origin | None:
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme, host, port = found.groups()
    return _Origin(scheme, host, _PORTS.get(scheme) if port is None else int(port))


def _only(connection: HTTPConnection, name: str) -> str | None:
    """Return the value of a header; `None` if it is missing or there are several."""
    values = connection.headers.getlist(name)
    return values[0] if len(values) == 1 else None


def check_origins(origins: object, *, option: str) -> None:
    """Check the value of the option `allowed_origins`.

    Raises:
        ValueError: It is not a collection of origins.
    """
    for each in checked_names(origins, option):
        if each != _ANY and (_ANY in each or _parse_origin(each) is None):
            raise ValueError(
                f"{option}: an origin is 'https://host', 'https://host:port' or '*', got {each!r}"
            )


def check_hosts(hosts: object, *, option: str) -> None:
    """Check the value of the option `allowed_hosts`.

    Raises:
        ValueError: It is not a collection of names of hosts.
    """
    for each in checked_names(hosts, option):
        found = _HOST.fullmatch(each.lower().removeprefix("*."))
        if each != _ANY and (found is None or found[2] is not None or _ANY in found[1]):
            raise ValueError(
                f"{option}: a host is 'host', '*.domain' or '*', without a port, got {each!r}"
            )


def checked_names(values: object, option: str) -> Collection[str]:
    """Return the value of an option that is a collection of strings.

    Raises:
        ValueError: It is something else; the message names the option.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        raise ValueError(f"{option} must be a collection of strings, got {values!r}")
    if not all(isinstance(each, str) for each in values):
        raise ValueError(f"{option} must be a collection of strings, got {values!r}")
    return values
