"""Power of two choices: draw two nodes at random and pick the less loaded one.

Of two nodes that are about equally fast, that is the one with fewer calls in flight, then the one
that was picked longer ago. Latency decides only where it differs clearly: it is never quite equal,
and with one call at a time the fastest node would get all of them.

Two random choices avoid most of the queueing of a single one. Picking the least loaded of all nodes
would send all clients to the same node on the same outdated information
(Mitzenmacher 2001; Finagle, Envoy and linkerd2 balance this way).

With nodes of different weights, load alone gives fair shares only while many calls are in flight:
with one call at a time, no node has a load, and the heavier node wins each comparison. Therefore
nodes that are about equally fast are compared by their calls in flight and by the part of a call
that they are owed: the credit of stride scheduling (Waldspurger 1995).
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, permutations
from random import Random
from typing import Any, TypeVar

from rap.balance.picker import Candidate

__all__ = ["PowerOfTwoChoices"]

C = TypeVar("C", bound=Candidate)

MAX_CACHED = 24
"""Maximum number of nodes whose pairs are kept; 24 nodes have 552 pairs."""
MOST_OWED = 1.0
"""Maximum credit of a node, in calls. It decides while no calls are in flight, and is nothing
next to a hundred calls. A new node starts with it, so it wins its first draw if it is idle."""
MOST_OWING = 0.9
"""Maximum debt of a node, in calls."""


class PowerOfTwoChoices:
    """Picks the one with the lower load per weight of two distinct candidates drawn at random.

    If weights differ, shares follow the weights at any number of calls in flight, while the
    latencies are about equal. A candidate that is new gets a call soon, however small its weight.

    Args:
        rng: Random numbers; only `random` is used.
    """

    spreads_streams = True

    def __init__(self, rng: Random) -> None:
        self._random = rng.random
        self._candidates: Sequence[Any] | None = None  # the candidates of `_pairs`
        self._pairs: list[tuple[Any, Any]] = []
        self._seen: Sequence[Any] | None = None
        self._shares = _Shares(rng)

    def pick(self, candidates: Sequence[C], affinity: str | None = None) -> C:
        """Return one of `candidates`; `affinity` is ignored."""
        first: C
        second: C
        if candidates is self._candidates:
            pairs = self._pairs
            first, second = pairs[int(self._random() * len(pairs))]
        else:
            shares = self._shares
            if candidates is shares.candidates:
                chosen: C = shares.pick()
                return chosen
            n = len(candidates)
            if n == 1:
                return candidates[0]
            if candidates is not self._seen and shares.take(candidates):
                chosen = shares.pick()
                return chosen
            self._remember(candidates)
            i, j = divmod(int(self._random() * (n * (n - 1))), n - 1)
            first, second = candidates[i], candidates[j if j < i else j + 1]
        return first if first.stats.beats(second.stats) else second  # their weights are equal

    def _remember(self, candidates: Sequence[C]) -> None:
        """Keep all pairs of a tuple that is passed twice in a row.

        A pick then takes one random number and one lookup. A tuple that is passed once, such as
        that of a retry without a node, does not replace the kept one. A list may change.
        """
        if type(candidates) is not tuple:
            return
        if candidates is self._seen and len(candidates) <= MAX_CACHED:
            self._candidates = candidates
            self._pairs = list(permutations(candidates, 2))
        self._seen = candidates


class _Seat:
    """A candidate with its account.

    Args:
        owed: Calls that it is owed.
        turn: The present turn; see `_Shares`.

    Attributes:
        node: The candidate.
        weight: Its weight.
        stride: What a call to it costs: 1 / weight.
        paid: What its calls have cost so far. It is owed ``(turn - paid) * weight`` calls.
    """

    __slots__ = ("node", "paid", "stride", "weight")

    def __init__(self, node: Any, owed: float, turn: float) -> None:
        self.sit(node)
        self.paid = turn - owed * self.stride

    def sit(self, node: Any) -> None:
        """Take a candidate, with its present weight."""
        self.node = node
        self.weight: float = node.weight
        self.stride = 1.0 / self.weight


class _Shares:
    """Two choices among candidates of different weights.

    The first is drawn by weight and the second from the others, so even a node with most of the
    weight is drawn more often than its share. Of uniform draws of two, only 2/n contain each of n
    nodes.

    Each pick advances the turn by ``1 / sum of weights``, which is what every candidate is to pay.

    Args:
        rng: Random numbers; only `random` is used.

    Attributes:
        candidates: The tuple that `pick` chooses from; `None` if it was a list.
    """

    def __init__(self, rng: Random) -> None:
        self.candidates: Sequence[Any] | None = None
        self._random = rng.random
        self._accounts: dict[str, _Seat] = {}  # by key, also of candidates that are left out now
        self._equal: Sequence[Any] = ()  # the last candidates of equal weights
        self._turn = 0.0
        self._step = 0.0
        self._seats: list[_Seat] = []
        self._pairs: list[tuple[_Seat, _Seat]] = []  # once `candidates` came twice in a row
        self._ends: list[float] = []  # of the ranges in which each of these is drawn
        self._drawn_once = False

    def take(self, candidates: Sequence[Any]) -> bool:
        """Use other candidates; return whether their weights differ."""
        weight = candidates[0].weight
        if all(each.weight == weight for each in candidates):
            self._equal, self._accounts = candidates, {}
            return False
        turn, accounts = self._turn, self._accounts
        if not accounts:  # with equal weights, no account was needed
            for each in self._equal:
                accounts[each.key] = _Seat(each, 0.0, turn)
        self._seats = []
        for each in candidates:
            seat = accounts.get(each.key)
            if seat is None or each.weight < seat.weight:  # it is new, or starts slowly again
                seat = accounts[each.key] = _Seat(each, MOST_OWED, turn)
            else:
                seat.sit(each)
            self._seats.append(seat)
        weights = [seat.weight for seat in self._seats]
        total = sum(weights)
        self._step = 1.0 / total
        self._pairs = []
        self._ends = _ends(weights)
        self.candidates = candidates if type(candidates) is tuple else None
        self._drawn_once = False
        return True

    def pick(self) -> Any:
        """Return one of the candidates."""
        pairs = self._pairs
        if pairs:
            first, second = pairs[bisect(self._ends, self._random())]
        else:
            first, second = self._draw()
        one, other = first.node, second.node
        calls, other_calls = one.own_calls + 1, other.own_calls + 1
        if one.stats.resembles(other.stats):
            turn = self._turn
            owed = (turn - first.paid) * first.weight
            if not -MOST_OWING <= owed <= MOST_OWED:
                owed = MOST_OWED if owed > 0.0 else -MOST_OWING
                first.paid = turn - owed * first.stride
            other_owed = (turn - second.paid) * second.weight
            if not -MOST_OWING <= other_owed <= MOST_OWED:
                other_owed = MOST_OWED if other_owed > 0.0 else -MOST_OWING
                second.paid = turn - other_owed * second.stride
            better = (calls - owed) * second.weight <= (other_calls - other_owed) * first.weight
        else:
            better = one.load() * second.weight <= other.load() * first.weight
        picked = first if better else second
        picked.paid += picked.stride
        self._turn += self._step
        return picked.node

    def _draw(self) -> tuple[_Seat, _Seat]:
        """Draw two candidates; keep all pairs if this is the second time."""
        seats = self._seats
        n = len(seats)
        i, j = bisect(self._ends, self._random()), int(self._random() * (n - 1))
        drawn = seats[i], seats[j if j < i else j + 1]
        if self._drawn_once and n <= MAX_CACHED:
            self._accounts = {seat.node.key: seat for seat in seats}
            self._pairs = list(permutations(seats, 2))
            self._ends = _ends([first.weight + second.weight for first, second in self._pairs])
        self._drawn_once = True
        return drawn


def _ends(weights: Sequence[float]) -> list[float]:
    """Return the ends of all ranges but the last, for `bisect` with a number from 0 to 1."""
    total = sum(weights)
    return [end / total for end in accumulate(weights)][:-1]
