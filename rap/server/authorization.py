"""Which clients may call a function: the rule of the function, and that of its group."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from rap.address import Certificate, Peer
from rap.call import Call
from rap.errors import RegistrationError

__all__ = [
    "Allow",
    "Predicate",
    "allow_rule",
    "both",
    "canonical_name",
    "kind_of",
    "names_of",
    "selects",
]

Predicate = Callable[[Call], object]
# Kinds of subject alternative names as `ssl` writes them, and as rules do.
_KINDS = {"DNS": "DNS", "URI": "URI", "email": "email", "IP Address": "IP"}
_PREFIXES = {"CN", *_KINDS.values()}
_ALMOST = {"ip address": "IP", **{each.lower(): each for each in _PREFIXES}}
# The option `allow`: a rule, or the names of the clients that may call.
Allow = Predicate | Collection[str]


def allow_rule(allow: Allow | None, option: str = "allow") -> Predicate | None:
    """Return the rule of an option ``allow``; `None` if every client may call.

    Args:
        allow: A function that takes the `Call` and returns `True` if the client may make it, and
            anything else if not; or a collection of names of clients, see `names_of`.
        option: Name of the option, for the error.

    Raises:
        RegistrationError: It is neither.
    """
    if allow is None:
        return None
    if callable(allow):
        if inspect.iscoroutinefunction(allow):
            raise RegistrationError(f"{option} must be a plain function, {allow!r} is async")
        return allow
    if isinstance(allow, str | bytes) or not isinstance(allow, Collection):
        raise RegistrationError(f"{option} must be a function or a set of names, got {allow!r}")
    wrong = [name for name in allow if not isinstance(name, str) or not name]
    if wrong:
        raise RegistrationError(f"{option}: a name is a non-empty string, got {wrong[0]!r}")
    try:
        allowed = frozenset(map(canonical_name, allow))
    except ValueError as exc:
        raise RegistrationError(f"{option}: {exc}") from exc

    def rule(call: Call) -> bool:
        identity = call.peer.identity if call.peer is not None else None
        return not allowed.isdisjoint(names_of(identity))

    return rule


def both(first: Predicate | None, second: Predicate | None) -> Predicate | None:
    """Return a rule that allows a call if both rules do."""
    if first is None or second is None:
        return first or second
    return lambda call: first(call) is True and second(call) is True


def names_of(identity: Any) -> frozenset[str]:
    """Return the names of an identity.

    A name tells where it comes from, because different parties choose them: an authority may let
    every user choose an email address, and none a common name.

    Args:
        identity: The identity of a peer. A string, as `verify_token` may return, is a name itself,
            unless it begins like a name of a certificate. A `Certificate` has its common name,
            alone and as ``CN:…``, and ``DNS:…``, ``URI:…``, ``email:…`` and ``IP:…`` for its
            subject alternative names. With several common names, it has none alone: which of them
            the authority has verified is unknown. Anything else has no name.
    """
    if isinstance(identity, str):
        return frozenset(() if kind_of(identity) else (identity,))
    if not isinstance(identity, Certificate):
        return frozenset()
    common = [
        value
        for group in identity.get("subject", ())
        for key, value in group
        if key == "commonName" and value
    ]
    names = [f"CN:{value}" for value in common]
    if len(common) == 1 and not kind_of(common[0]):
        names += common
    for kind, value in identity.get("subjectAltName", ()):
        if kind in _KINDS and isinstance(value, str):
            names.append(canonical_name(f"{_KINDS[kind]}:{value}"))
    return frozenset(names)


def selects(identity: Any) -> Callable[[Peer], object]:
    """Return the function that tells whether a peer has an identity; see `Server.revoke`.

    Raises:
        ValueError: The identity is `None`, or a malformed name.
    """
    if identity is None:
        raise ValueError("identity must be a name, an identity or a function of a Peer, got None")
    if isinstance(identity, str):
        name = canonical_name(identity)
        return lambda peer: name in names_of(peer.identity) or peer.identity == identity
    if callable(identity):
        chosen: Callable[[Peer], object] = identity
        return chosen
    return lambda peer: peer.identity is not None and peer.identity == identity


def kind_of(name: str) -> str:
    """Return the kind of a name of a certificate, such as ``DNS``; empty for any other name."""
    kind, separator, _ = name.partition(":")
    return kind if separator and kind in _PREFIXES else ""


def canonical_name(name: str) -> str:
    """Return a name in the only form in which names are compared.

    Raises:
        ValueError: It is an IP address that is none, or is written almost like a name of a
            certificate, such as ``dns:…``.
    """
    kind, separator, value = name.partition(":")
    if not separator or kind not in _PREFIXES:
        meant = _ALMOST.get(kind.lower()) if separator else None
        if meant is not None:
            raise ValueError(f"write {meant}:{value}, not {name}")
        return name
    if kind == "DNS":
        return f"{kind}:{value.lower()}"
    if kind == "IP":
        from ipaddress import ip_address  # few programs need this

        return f"{kind}:{ip_address(value.strip())}"
    return name
