"""What a client declares, against what the servers of its service have registered."""

import logging
from collections.abc import Collection, Iterable, Mapping

from rap.call import StreamType
from rap.client.method import Method
from rap.foreign import one_line
from rap.registry.base import FUNCTIONS, Endpoint
from rap.schema.registered import declared_hash, read_signatures

__all__ = ["Declarations", "lacking"]

_log = logging.getLogger("rap.client")


class Declarations:
    """Tells once of each function that no server has as the client declares it.

    Args:
        service: Name of the service, for the messages.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._hashes: dict[Method, str | None] = {}
        self._told: set[str] = set()

    def check(self, declared: Iterable[Method], endpoints: Iterable[Endpoint]) -> list[str]:
        """Return what is wrong with the declarations, and log what was not logged before.

        A function is right if one server has it so: in a rolling update, others do not yet.
        """
        known = [_signatures(each) for each in endpoints]
        if not known or None in known:  # one of an older release may have anything
            return []
        found = []
        for method in declared:
            path = method.path[1:]
            hashes = {each[path] for each in known if each is not None and path in each}
            if not hashes:
                text = f"no instance of {self._service} has the function {path}"
                found.append(text + _elsewhere(method.name, known))
            elif self._hash(method) not in (None, *hashes):
                found.append(f"{path} {self._difference(method, hashes)}")
        for text in found:
            if text not in self._told:
                self._told.add(text)
                _log.warning("%s", text)
        return found

    def _difference(self, method: Method, hashes: Collection[str]) -> str:
        """Return how a declared function differs from those that servers have registered."""
        function = method.function
        assert function is not None
        if function.stream_type is StreamType.CHANNEL:
            if declared_hash(function, as_server=True) in hashes:
                return (
                    f"is declared here with the Channel[In, Out] of its server, {self._service},"
                    " but that is written from this side's view: In is what this side reads; swap"
                    " In and Out here (docs/how-to/typing.md has the way to share the rest)"
                )
        return (
            f"has another signature on {self._service} than this client declares;"
            " `rap compat` says whether calls fail"
        )

    def _hash(self, method: Method) -> str | None:
        if method not in self._hashes:
            assert method.function is not None
            self._hashes[method] = declared_hash(method.function)
        return self._hashes[method]


def lacking(endpoints: Iterable[Endpoint], path: str) -> frozenset[str]:
    """Return the ids of the servers that have registered without a function.

    Args:
        endpoints: The servers.
        path: The function, as ``/group/name``.
    """
    return frozenset(
        each.id
        for each in endpoints
        if (known := _signatures(each)) is not None and path[1:] not in known
    )


def _elsewhere(name: str, known: Iterable[Mapping[str, str] | None]) -> str:
    """Return what to write if servers have a function of this name in another group."""
    paths = {path for each in known for path in each or () if path.endswith(f"/{name}")}
    if not paths:
        return ""
    group = one_line(repr(min(paths).removesuffix(f"/{name}")))
    return f"; there is one in the group {group}: pass group={group}"


def _signatures(endpoint: Endpoint) -> Mapping[str, str] | None:
    return read_signatures(endpoint.metadata.get(FUNCTIONS, ""))
