"""What some registries tell beyond endpoints: which services exist, and how loaded they are."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

__all__ = ["LoadReport", "Reports", "check_load"]

# Small figures of one instance, such as in_flight, rps, util, conns.
LoadReport = Mapping[str, float]


@runtime_checkable
class Reports(Protocol):
    """A registry that can also be asked what runs in it; for `rap top` and the console."""

    def report_load(self, service: str, endpoint_id: str, load: LoadReport) -> None:
        """Keep the load of an instance; it travels with the next renewal of its lease."""

    async def loads(self, service: str) -> Mapping[str, LoadReport]:
        """Return endpoint id to the load it last reported.

        Raises:
            RegistryError: The registry cannot be reached.
        """

    async def services(self) -> Sequence[str]:
        """Return the names of the services ever registered in this namespace, sorted.

        Raises:
            RegistryError: The registry cannot be reached.
        """


def check_load(value: object) -> dict[str, float]:
    """Return a load report.

    Raises:
        ValueError: It is no mapping of text to numbers.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"load must be a mapping of names to numbers, got {value!r}")
    for name, figure in value.items():
        if not isinstance(name, str) or isinstance(figure, bool):
            raise ValueError(f"load must map names to numbers, got {name!r}: {figure!r}")
        if not isinstance(figure, int | float):
            raise ValueError(f"load {name!r} must be a number, got {figure!r}")
    return dict(value)
