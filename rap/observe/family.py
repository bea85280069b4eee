"""Metrics as tables: a row says what is read of a server or a client when somebody scrapes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

__all__ = ["Family", "Row", "families"]

T = TypeVar("T")
Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """One metric.

    Args:
        name: Of the metric; that of a counter ends in ``_total``.
        text: What it means.
        read: Returns the value; with `label`, values by its value. `None`: there is nothing to
            tell.
        label: Beside the name of what is read.
    """

    name: str
    text: str
    read: Callable[[T], float | Mapping[str, float] | None]
    label: str = ""


def families(
    rows: Sequence[Row[T]], label: str, subjects: Iterable[tuple[str, T]]
) -> Iterator[Family]:
    """Yield the metrics of some subjects.

    Args:
        rows: The table.
        label: Tells subjects apart.
        subjects: Each with its value of that label.
    """
    subjects = tuple(subjects)
    for row in rows:
        kind = CounterMetricFamily if row.name.endswith("_total") else GaugeMetricFamily
        labels = [label, row.label] if row.label else [label]
        family: Family = kind(row.name, row.text, labels=labels)
        for name, subject in subjects:
            found = row.read(subject)
            if isinstance(found, Mapping):
                for value, number in found.items():
                    family.add_metric([name, value], number)
            elif found is not None:
                family.add_metric([name], found)
        if family.samples:
            yield family
