"""Which clients may call a function: the rule of the function, and that of its group."""

import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any

from rap.call import Call
from rap.errors import RegistrationError

__all__ = ["Allow", "Predicate", "allow_rule", "both", "names_of"]

Predicate = Callable[[Call], object]
# The option `allow`: a rule, or the names of the clients that may call.
Allow = Predicate | Collection[str]


def allow_rule(allow: Allow | None, option: str = "allow") -> Predicate | None:
    """Return the rule of an option ``allow``; `None` if every client may call.

    Args:
        allow: A function that takes the `Call` and returns `True` if the client may make it, and
            anything else if not; or a collection of client names, see `names_of`.
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
    allowed = frozenset(allow)
    wrong = [name for name in allowed if not isinstance(name, str) or not name]
    if wrong:
        raise RegistrationError(f"{option}: a name is a non-empty string, got {wrong[0]!r}")

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

    Args:
        identity: The identity of a peer. A string, as `verify_token` may return, is a name itself.
            A certificate, as a dict of the module `ssl`, has its common name and all subject
            alternative names. Anything else has no name.
    """
    if isinstance(identity, str):
        return frozenset((identity,))
    if not isinstance(identity, dict):
        return frozenset()
    return frozenset(_certificate_names(identity))


def _certificate_names(certificate: dict[str, Any]) -> Iterator[str]:
    for group in certificate.get("subject", ()):
        for key, value in group:
            if key == "commonName":
                yield value
    for _, value in certificate.get("subjectAltName", ()):
        if isinstance(value, str):
            yield value
