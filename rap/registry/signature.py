"""Signed registrations: whoever can write to a registry cannot lead clients to other servers.

Servers and clients share a secret key. A server signs what it registers: service, address, weight,
state, zone and everything else that clients read, and until when the signature is valid. A client
ignores each registration without a valid signature. So a writer without the key can remove servers,
but neither add nor change one.
"""

import hashlib
import hmac
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf
from typing import cast

from rap.clock import Clock, SystemClock
from rap.foreign import one_line
from rap.registry.base import Endpoint, Resolver, Snapshot, State, last_error_of, place_of
from rap.wire.codec import pack

__all__ = ["SignedResolver", "Signer"]

logger = logging.getLogger("rap.registry")

# A client that starts while the registry is down uses what a cache has stored, so signatures are
# valid as long as a registry remembers a silent server (see `redis.py`).
_VALID = 86_400.0  # seconds
_LOG_PAUSE = 60.0  # seconds between two log records about the same service
_SIGNATURE, _UNTIL = "sig", "sig_until"  # in the metadata
_CONTEXT = "rap registration 1"


class Signer:
    """Signs the registrations of one service, and checks them.

    Args:
        key: The secret.
        service: Name of the service.
        clock: Source of time; only `time` is used.
    """

    def __init__(self, key: bytes, service: str, clock: Clock) -> None:
        self._key = key
        self._service = service
        self._clock = clock
        self._signed: tuple[Endpoint, Endpoint, float] | None = None  # the last one, and its end

    def sign(self, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint with a signature, a new one when half of its time is over."""
        now = self._clock.time()
        if self._signed is not None:
            before, signed, until = self._signed
            if before == endpoint and now <= until - _VALID / 2 <= now + _VALID:
                return signed
        until = now + _VALID
        text = str(int(until))
        signature = self._signature(endpoint, endpoint.state, text)
        metadata = {**endpoint.metadata, _UNTIL: text, _SIGNATURE: signature}
        signed = endpoint.replace(metadata=metadata)
        self._signed = endpoint, signed, until
        return signed

    def find_fault(self, signed: Endpoint, *, is_known: bool = False) -> str:
        """Return why a registration is not valid; empty if it is.

        Args:
            signed: The endpoint with its signature.
            is_known: Whether the signature was valid before, so that it need not be any more.
        """
        signature, until = signed.metadata.get(_SIGNATURE), signed.metadata.get(_UNTIL, "")
        if not signature:
            return "it is not signed"
        # Registries tell clients that a lease has expired by a state that no server registers.
        is_suspect = signed.state is State.SUSPECT
        states = (State.UP, State.DRAINING) if is_suspect else (signed.state,)
        endpoint = unsigned(signed)
        try:
            wanted = [self._signature(endpoint, state, until).encode() for state in states]
            given = signature.encode()
        except ValueError as exc:  # a text that is no Unicode
            return f"it cannot be signed: {one_line(exc)}"
        if not any(hmac.compare_digest(given, each) for each in wanted):
            return "its signature was made with another key, or for something else"
        if not is_known and float(until) < self._clock.time():
            return "its signature has expired"
        return ""

    def _signature(self, endpoint: Endpoint, state: State, until: str) -> str:
        signed = [
            _CONTEXT,
            self._service,
            endpoint.id,
            str(endpoint.address),
            endpoint.weight,
            state.value,
            endpoint.incarnation,
            endpoint.zone,
            [[name, value] for name, value in sorted(endpoint.metadata.items())],
            until,
        ]
        return hmac.new(self._key, pack(signed), hashlib.sha256).hexdigest()


class SignedResolver:
    """A resolver that leaves out what is not signed.

    Args:
        resolver: Lists endpoints with their signatures.
        key: The secret.
        clock: Source of time.

    Attributes:
        refused: Number of registrations that were left out so far.

    Raises:
        ValueError: Servers do not register there.
    """

    def __init__(self, resolver: Resolver, key: bytes, clock: Clock | None = None) -> None:
        if not hasattr(resolver, "register"):
            kind = type(resolver).__name__
            raise ValueError(
                f"registry_key needs a registry in which servers register; {kind} is none"
            )
        self.refused = 0
        self._resolver = resolver
        self._key = key
        self._clock = clock or SystemClock()

    @property
    def last_error(self) -> str:
        """The reason why the resolver has no answer now; empty if it has one."""
        return last_error_of(self._resolver)

    @property
    def place(self) -> str:
        """What the resolver reads, and whether this has left something out."""
        text = place_of(self._resolver)
        if not self.refused:
            return text
        return f"{text}; ignored {self.refused}, which are not signed with registry_key".lstrip(
            "; "
        )

    @property
    def degraded(self) -> bool | None:
        """Whether the registry does not answer; `None` if it does not say."""
        return cast("bool | None", getattr(self._resolver, "degraded", None))

    @property
    def age(self) -> float | None:
        """Seconds since the registry last answered; `None` if it does not say."""
        return cast("float | None", getattr(self._resolver, "age", None))

    async def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yield a snapshot of what is signed, now and after each change of that."""
        signer = Signer(self._key, service, self._clock)
        accepted: dict[str, Endpoint] = {}
        refused: dict[str, Endpoint] = {}
        last: Snapshot | None = None
        logged_at = -inf
        # A watch has `aclose`, but of the types only the one of a generator says so.
        snapshots = cast("AsyncGenerator[Snapshot, None]", self._resolver.watch(service))
        async with aclosing(snapshots):
            async for snapshot in snapshots:
                faults = {
                    key: fault
                    for key, endpoint in snapshot.items()
                    if (fault := _fault(signer, endpoint, accepted.get(key)))
                }
                new = [key for key in faults if refused.get(key) != snapshot[key]]
                refused = {key: snapshot[key] for key in faults}
                accepted = {key: it for key, it in snapshot.items() if key not in faults}
                self.refused += len(new)
                now = self._clock.monotonic()
                if new and now - logged_at >= _LOG_PAUSE:
                    logged_at = now
                    text = "%s: %d registrations are ignored (option registry_key); %s: %s"
                    first = one_line(new[0])
                    logger.warning(text, service, len(faults), first, faults[new[0]])
                found = {key: unsigned(endpoint) for key, endpoint in accepted.items()}
                if found != last:
                    last = found
                    yield found

    async def aclose(self) -> None:
        """Release the resolver's connections."""
        await self._resolver.aclose()


def unsigned(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint without its signature."""
    rest = {k: v for k, v in endpoint.metadata.items() if k not in (_SIGNATURE, _UNTIL)}
    return endpoint.replace(metadata=rest)


def _fault(signer: Signer, endpoint: Endpoint, before: Endpoint | None) -> str:
    """Return why an endpoint is not valid; what was valid before stays so.

    After a long outage, no registration has a new signature yet.
    """
    if before is None:
        return signer.find_fault(endpoint)
    if before == endpoint:
        return ""
    is_known = all(
        before.metadata.get(name) == endpoint.metadata.get(name) for name in (_SIGNATURE, _UNTIL)
    )
    return signer.find_fault(endpoint, is_known=is_known)
