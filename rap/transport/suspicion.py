"""Suspicion: a client doubts a server that is silent long before it cuts the connection.

A frozen server, a black hole and a half-open connection look alike: nothing arrives. So while calls
are open, a silence of 0.2 s is answered by a ping. If nothing arrives for a while after that, the
server is suspect: calls go elsewhere, and idempotent ones that wait there are made once more on
another server. Any byte ends the suspicion. A suspicion that is wrong costs little, so it may come
after half a second, unlike the end of the connection (`Keepalive`).

The only history is how long pings were answered: a slow function is not a silent server. What
passes while this process does not run counts neither as silence nor as a slow answer.
"""

from collections import deque
from enum import Enum
from math import inf

__all__ = ["LOOK", "Doubt", "Suspicion"]

LOOK = 0.1
"""Seconds between two looks at a connection that calls wait for."""
STALE = 3.0
"""Seconds after which the last byte no longer shows that the server is alive."""
_SILENCE, _MAX_SILENCE = 0.2, 1.0  # seconds before a ping; doubled while only pings are answered
_LEAST_PATIENCE, _MOST_PATIENCE = 0.25, 1.0  # seconds to wait for the answer
_FACTOR = 2.0  # patience, in times of the slowest recent answer
_HISTORY = 60.0  # seconds


class Doubt(Enum):
    """What `Suspicion.look` has found."""

    NONE = "none"
    ASK = "ask"  # send a ping
    SUSPECT = "suspect"  # from now on
    HEARD = "heard"  # the suspicion has ended


class Suspicion:
    """Whether the peer of one connection is suspected to be gone. It does no I/O.

    Times are in seconds on the monotonic clock.

    Args:
        now: The present time.

    Attributes:
        suspected: Whether it is.
        heard_at: When something of the peer was last seen.
        asked_at: When the ping was sent whose answer is awaited; `None`: none is.
    """

    __slots__ = (
        "_answers",
        "_begun_at",
        "_opened",
        "_patience",
        "_pinged_at",
        "_silence",
        "asked_at",
        "heard_at",
        "suspected",
    )

    def __init__(self, now: float) -> None:
        self.suspected = False
        self.heard_at = now
        self.asked_at: float | None = None
        self._begun_at = now  # when calls were opened after none had been open
        self._opened = 0  # calls so far, at the last look
        self._silence = _SILENCE
        self._patience = _LEAST_PATIENCE
        self._pinged_at = -inf
        self._answers: deque[tuple[float, float]] = deque()  # time, seconds; the slowest first

    @property
    def is_patient(self) -> bool:
        """Whether the next look may be too late for a call that is opened now."""
        return self._silence > _SILENCE and self.asked_at is None and not self.suspected

    def is_alive(self, now: float) -> bool:
        """Whether the peer is known to be alive: it was heard lately, and owes no answer."""
        return self.asked_at is None and not self.suspected and now - self.heard_at <= STALE

    def begin(self, now: float, least: float) -> bool:
        """Note that calls are open again; return whether to ping now: it was not heard lately.

        Args:
            now: The present time.
            least: Seconds between two pings that the peer asks for.
        """
        self._begun_at = now
        self._silence = _SILENCE
        return now - self.heard_at > STALE and self.ask(now, least)

    def ask(self, now: float, least: float) -> bool:
        """Return whether to ping now; not so if an answer is awaited, or it would be too early.

        Args:
            now: The present time.
            least: As in `begin`.
        """
        if self.asked_at is not None or self.suspected or now - self._pinged_at < least:
            return False
        self.asked_at = self._pinged_at = now
        slowest = self._slowest(now)
        self._patience = min(max(_LEAST_PATIENCE, _FACTOR * slowest), _MOST_PATIENCE)
        return True

    def on_answer(self, now: float) -> bool:
        """Take the answer to a ping; return whether a suspicion has ended."""
        if self.asked_at is not None:
            self._learn(now, now - self.asked_at)
        return self._hear(now)

    def learn(self, other: "Suspicion", now: float) -> None:
        """Learn how slowly the peer has answered on another connection, or has not yet."""
        self._learn(now, other._slowest(now))
        if other.asked_at is not None:
            self._learn(now, now - other.asked_at)

    def postpone(self, seconds: float) -> None:
        """Forget a time in which this process did not run."""
        self.heard_at += seconds
        self._begun_at += seconds
        if self.asked_at is not None:
            self.asked_at += seconds

    def look(
        self, now: float, *, active: bool, busy: bool, opened: int, least: float
    ) -> tuple[Doubt, float]:
        """Return what there is to do, and when to look again.

        Args:
            now: The present time.
            active: Whether anything was received since the last look.
            busy: Whether calls are open.
            opened: How many calls were opened so far.
            least: Seconds between two pings that the peer asks for.
        """
        if opened != self._opened:
            self._opened = opened
            self._silence = _SILENCE
        ended = active and self._hear(now)
        if ended:
            return Doubt.HEARD, now + LOOK
        if self.suspected:
            return Doubt.NONE, now + LOOK
        if self.asked_at is not None:
            due = self.asked_at + self._patience
            if now < due:
                return Doubt.NONE, min(due, now + LOOK)
            self.suspected = True
            return Doubt.SUSPECT, now + LOOK
        if not busy:
            return Doubt.NONE, inf
        due = max(self.heard_at, self._begun_at) + self._silence
        if now < due:
            return Doubt.NONE, due if self.is_patient else min(due, now + LOOK)
        if not self.ask(now, least):
            return Doubt.NONE, max(self._pinged_at + least, now + LOOK)
        self._silence = min(2.0 * self._silence, _MAX_SILENCE)
        return Doubt.ASK, min(now + self._patience, now + LOOK)

    def _learn(self, now: float, took: float) -> None:
        if took <= _MOST_PATIENCE:  # longer ones would delay the next suspicion
            answers = self._answers
            while answers and answers[-1][1] <= took:
                answers.pop()
            answers.append((now, took))

    def _hear(self, now: float) -> bool:
        ended, self.suspected = self.suspected, False
        self.heard_at = now
        self.asked_at = None
        return ended

    def _slowest(self, now: float) -> float:
        """Return the seconds of the slowest answer of the last minute; 0 without one."""
        answers = self._answers
        while answers and answers[0][0] < now - _HISTORY:
            answers.popleft()
        return answers[0][1] if answers else 0.0
