"""Interleaved rounds: all peers run a workload, one after another, and then the next workload.

Other load on the machine then affects all peers alike, and the ratios within a round remain valid.
Every round starts new processes, and each time another peer begins.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from bench.adapter import Adapter
from bench.pair import Pair, PairError, import_milliseconds
from bench.workloads import WORKLOADS, Workload

__all__ = ["Round", "lacking", "run_round"]

# Figures by peer and workload; a workload's figures are numbers, or an error.
Round = dict[str, dict[str, dict[str, Any]]]
Say = Callable[[str], None]


def lacking(adapter: Adapter, workload: Workload) -> str | None:
    """Return why a peer cannot run a workload: `None` if it can, "" if it is not for the peer."""
    if workload.extra and workload.needs not in adapter.extras:
        return ""
    return adapter.missing().get(workload.needs)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Pairs:
    """The processes of a round, started when a workload needs them.

    Args:
        adapters: The peers by name.
        certificate: Folder of the certificate.
        log: File to which the processes write.
    """

    def __init__(
        self, adapters: Mapping[str, Adapter], certificate: Path, log: IO[str], stack: ExitStack
    ) -> None:
        self._adapters = adapters
        self._certificate = certificate
        self._log = log
        self._stack = stack
        self._pairs: dict[tuple[str, str, int], Pair | str] = {}

    def ready(self, peers: Sequence[str], workload: Workload) -> dict[str, Pair | str]:
        """Return each peer's processes, or why there are none."""
        keys = {peer: (peer, workload.setup, workload.servers) for peer in peers}
        new: list[tuple[tuple[str, str, int], Pair]] = []
        for key in keys.values():
            if key not in self._pairs:
                pair = Pair(key[0], self._adapters[key[0]], *key[1:], self._certificate, self._log)
                self._pairs[key] = self._stack.enter_context(pair)
                new.append((key, pair))
        for key, pair in new:
            try:
                pair.wait_until_ready()
            except PairError as exc:
                self.lost(key, str(exc))
        return {peer: self._pairs[key] for peer, key in keys.items()}

    def lost(self, key: tuple[str, str, int], why: str) -> None:
        """End processes that do not answer."""
        pair = self._pairs[key]
        self._pairs[key] = why
        if isinstance(pair, Pair):
            pair.stop()


def run_round(
    number: int,
    adapters: Mapping[str, Adapter],
    workloads: Sequence[str],
    seconds: float,
    certificate: Path,
    log: IO[str],
    say: Say = _say,
) -> Round:
    """Run one round, and return the results of all peers.

    Args:
        number: Number of the round. It determines which peer begins.
        adapters: The peers by name.
        workloads: Names of the workloads.
        seconds: Duration of each measurement.
        certificate: Folder of the certificate.
        log: File to which the processes write.
        say: Takes a line of progress.
    """
    names = list(adapters)
    names = names[number % len(names) :] + names[: number % len(names)]
    found: Round = {name: {} for name in adapters}
    for name in names:
        found[name]["import"] = {"ms": import_milliseconds(adapters[name], certificate)}
    with ExitStack() as stack:
        pairs = _Pairs(adapters, certificate, log, stack)
        for title in workloads:
            workload = WORKLOADS[title]
            able = [name for name in names if lacking(adapters[name], workload) is None]
            for name, pair in pairs.ready(able, workload).items():
                if isinstance(pair, str):
                    found[name][title] = {"error": pair}
                    continue
                try:
                    found[name][title] = pair.ask(title, seconds)
                except PairError as exc:
                    found[name][title] = {"error": str(exc)}
                    pairs.lost((name, workload.setup, workload.servers), str(exc))
                if "error" in found[name][title]:
                    say(f"{name} {title}: {found[name][title]['error']}")
    return found
