"""Load balancing without I/O: loads, pickers, slow start, outlier detection, subsets."""

from typing import TYPE_CHECKING

from rap._lazy import Lazy, loader
from rap.balance.load import Load, PeakEwma, median_ewma
from rap.balance.outlier import Breaker, BreakerPolicy, BreakerState, ejection_limit, is_panic
from rap.balance.p2c import PowerOfTwoChoices
from rap.balance.picker import Candidate, Picker, needs_all, spreads_streams, wants_reports
from rap.balance.policies import picker_from_name
from rap.balance.slow_start import effective_weights, slow_start

if TYPE_CHECKING:
    from rap.balance.comparison import Comparison, ComparisonPolicy, Finding, Tally
    from rap.balance.latency import LatencyAt
    from rap.balance.prequal import Prequal
    from rap.balance.rendezvous import Rendezvous
    from rap.balance.subset import Subset
    from rap.balance.weighted import RoundRobin, SmoothWeighted, WeightedRandom
    from rap.balance.zone import ZoneAware, zone_shares

__all__ = [
    "Breaker",
    "BreakerPolicy",
    "BreakerState",
    "Candidate",
    "Comparison",
    "ComparisonPolicy",
    "Finding",
    "LatencyAt",
    "Load",
    "PeakEwma",
    "Picker",
    "PowerOfTwoChoices",
    "Prequal",
    "Rendezvous",
    "RoundRobin",
    "SmoothWeighted",
    "Subset",
    "Tally",
    "WeightedRandom",
    "ZoneAware",
    "effective_weights",
    "ejection_limit",
    "is_panic",
    "median_ewma",
    "needs_all",
    "picker_from_name",
    "slow_start",
    "spreads_streams",
    "wants_reports",
    "zone_shares",
]

__getattr__ = loader(
    __name__,
    {
        "Comparison": Lazy("rap.balance.comparison", "Comparison"),
        "ComparisonPolicy": Lazy("rap.balance.comparison", "ComparisonPolicy"),
        "Finding": Lazy("rap.balance.comparison", "Finding"),
        "LatencyAt": Lazy("rap.balance.latency", "LatencyAt"),
        "Prequal": Lazy("rap.balance.prequal", "Prequal"),
        "Rendezvous": Lazy("rap.balance.rendezvous", "Rendezvous"),
        "RoundRobin": Lazy("rap.balance.weighted", "RoundRobin"),
        "SmoothWeighted": Lazy("rap.balance.weighted", "SmoothWeighted"),
        "Subset": Lazy("rap.balance.subset", "Subset"),
        "Tally": Lazy("rap.balance.comparison", "Tally"),
        "WeightedRandom": Lazy("rap.balance.weighted", "WeightedRandom"),
        "ZoneAware": Lazy("rap.balance.zone", "ZoneAware"),
        "zone_shares": Lazy("rap.balance.zone", "zone_shares"),
    },
)
