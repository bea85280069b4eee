"""The queries of a Grafana dashboard, as Prometheus takes them.

All of ours return data where instances of ``calc`` with ``APP_SECRET``, one of ``orders`` and a
client under load are scraped.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DASHBOARD", "expressions"]

DASHBOARD = Path(__file__).parents[1] / "grafana" / "dashboards" / "rap.json"

_LABEL_VALUES = re.compile(r"label_values\((.+), *\w+\)")


def expressions(
    path: Path = DASHBOARD, *, job: str = ".+", instance: str = ".+", rate_interval: str = "1m"
) -> Iterator[str]:
    """Yield each query of the panels and of the variables once, in their order.

    Args:
        path: Of the dashboard.
        job: Pattern in the place of ``$job``.
        instance: Pattern in the place of ``$instance``.
        rate_interval: In the place of ``$__rate_interval``; Grafana takes at least four scrapes.

    Raises:
        ValueError: A query has another variable.
    """
    values = {"__rate_interval": rate_interval, "job": job, "instance": instance}
    dashboard = json.loads(path.read_text())
    for query in dict.fromkeys(_queries(dashboard)):
        for name, value in values.items():
            query = query.replace(f"${name}", value)
        if "$" in query:
            raise ValueError(f"{path.name}: nobody knows the variable in {query}")
        yield query


def _queries(dashboard: Any) -> Iterator[str]:
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found is not None, variable
            yield found[1]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
