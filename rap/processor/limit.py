"""Rate limits: token buckets of this process, or shared by all instances."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field

from rap.call import Request
from rap.errors import ResourceExhausted
from rap.options import as_list
from rap.processor.base import BaseProcessor
from rap.shared_state import Bucket, TokenBuckets, state_from_url
from rap.shared_state.base import check_number

__all__ = ["LimitProcessor", "Match", "Rule"]

_SCOPE = "limit"
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}

# Returns the key to limit, such as the address of the peer; `None` if the rule does not apply.
Match = Callable[[Request], str | Awaitable[str | None] | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rate limit: a token bucket that gains `gen_token` tokens per period.

    Each request takes a token and is refused if there is none. `Rule(minute=1, gen_token=60,
    max_token=10)` admits one request per second, and a burst of ten after a pause.

    Args:
        second: Seconds of the period. The period is the sum of all five units.
        minute: Minutes of the period.
        hour: Hours of the period.
        day: Days of the period.
        week: Weeks of the period.
        max_token: Maximum number of tokens, which is the size of a burst.
        gen_token: Tokens added per period.
        init_token: Tokens of a new bucket; `None` for a full bucket.
        group: Rules of one group share their buckets; by default each rule has its own.
        block_time: Seconds that all requests are refused after one that found no token.

    Raises:
        ValueError: A number is out of bounds, or the period is 0; the message names it.
    """

    second: float = 0
    _: KW_ONLY
    minute: float = 0
    hour: float = 0
    day: float = 0
    week: float = 0
    max_token: int = 100
    gen_token: int = 1
    init_token: int | None = None
    group: str | None = None
    block_time: float | None = None
    bucket: Bucket = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every value."""
        period = 0.0
        for unit, seconds in _SECONDS.items():
            period += seconds * check_number(unit, getattr(self, unit), least=0)
        if not period:
            raise ValueError(f"a Rule needs a period: one of {', '.join(_SECONDS)} above 0")
        check_number("max_token", self.max_token, least=1)
        check_number("gen_token", self.gen_token, least=0, above=True)
        initial = self.max_token if self.init_token is None else self.init_token
        check_number("init_token", initial, least=0)
        if initial > self.max_token:
            text = f"init_token must be at most max_token, {self.max_token}"
            raise ValueError(f"{text}, got {initial!r}")
        if not isinstance(self.group, str | None):
            raise ValueError(f"group must be a string, got {self.group!r}")
        block_time = 0 if self.block_time is None else self.block_time
        check_number("block_time", block_time, least=0)
        bucket = Bucket(self.max_token, self.gen_token / period, initial, block_time)
        object.__setattr__(self, "bucket", bucket)


class LimitProcessor(BaseProcessor):
    """Refuses requests above the limits of its rules with `ResourceExhausted`; for servers.

    Each rule that matches a request must admit it. The first that refuses it sets ``retry_after``
    in ``details``, in seconds. A unary or generator call is one request. In other calls, the
    opening and each item or message are one request each. A refusal does not count against the node
    on the client.

    Args:
        backend: URL of `rap.shared_state.state_from_url`, such as ``memory://`` or
            ``redis://host:6379/0``, or a `TokenBuckets`. While Redis is unavailable, each instance
            uses its share of each limit.
        rule_list: Pairs of a function and a rule. The function, plain or ``async``, returns the key
            to limit, as text, or `None` if the rule does not apply.

    Raises:
        TypeError: `backend` or an entry of `rule_list` has the wrong type.
        ValueError: The URL is malformed, or there is no rule.
    """

    def __init__(
        self, backend: str | TokenBuckets, rule_list: Iterable[tuple[Match, Rule]]
    ) -> None:
        self._rules: list[tuple[Match, str, Bucket]] = []
        for entry in as_list("rule_list", rule_list):
            match entry:
                case (match_func, Rule() as rule) if callable(match_func):
                    group = str(len(self._rules)) if rule.group is None else f"={rule.group}"
                    self._rules.append((match_func, group, rule.bucket))
                case _:
                    raise TypeError(f"rule_list takes pairs (function, Rule), got {entry!r}")
        if not self._rules:
            raise ValueError("rule_list must have a rule, got an empty list")
        self.refused = 0  # requests
        self._owned = isinstance(backend, str)
        if isinstance(backend, str):
            self._buckets: TokenBuckets = state_from_url(backend, option="backend").buckets(_SCOPE)
        elif hasattr(backend, "take"):
            self._buckets = backend
        else:
            raise TypeError(f"backend must be a URL or a TokenBuckets, got {backend!r}")

    @property
    def alone(self) -> bool:
        """Whether the store is unavailable, so that this instance uses its share of the limits."""
        return bool(getattr(self._buckets, "away", False))

    async def process_request(self, request: Request) -> Request:
        """Admit or refuse a request.

        Raises:
            ResourceExhausted: It is above a limit.
        """
        for match_func, group, bucket in self._rules:
            key = match_func(request)
            if inspect.isawaitable(key):
                key = await key
            if key is None:
                continue
            wait = await self._buckets.take(f"{group}/{key}", bucket)
            if wait > 0:
                self.refused += 1
                raise ResourceExhausted(
                    f"too many requests for {request.method}: try again in {wait:.3g} s",
                    details={"retry_after": wait},
                )
        return request

    async def stop_event_handle(self) -> None:
        """Release the store."""
        if self._owned:
            await self._buckets.aclose()
