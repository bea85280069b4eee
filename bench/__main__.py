"""``python -m bench``: measure rap, its peers and the limit; see docs/performance.md."""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.adapter import Adapter
from bench.certificate import make_certificate
from bench.chart import draw
from bench.pair import ENVIRONMENT
from bench.peers import PEERS, load_adapter
from bench.report import Report
from bench.rounds import lacking, run_round
from bench.workloads import WORKLOADS

__all__: list[str] = []

_RESULTS = Path(__file__).parent / "results"
_QUICK_PEERS = ("rap", "limit", "grpc.aio")
_QUICK_WORKLOADS = (
    "idle", "lat1", "thr64", "thr512", "echo1k", "echo64k", "echo1m", "stream",
    "stream_apart", "stream1k", "upload", "upload_apart", "chan1", "chan100", "connrate",
)  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="rap, limit and grpc.aio in a minute")
    parser.add_argument("--peers", type=_names(PEERS), help=", ".join(PEERS))
    parser.add_argument("--workloads", type=_names(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="folder of the results")
    return parser.parse_args()


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return parse


def main() -> None:
    """Measure, and write the report."""
    options = _arguments()
    peers = options.peers or (_QUICK_PEERS if options.quick else list(PEERS))
    seconds = options.seconds or (0.3 if options.quick else 0.4)
    workloads = options.workloads or (_QUICK_WORKLOADS if options.quick else list(WORKLOADS))
    adapters, skipped = _usable(peers, workloads)
    options.output.mkdir(parents=True, exist_ok=True)
    rounds = []
    with (
        tempfile.TemporaryDirectory(prefix="rap-bench-") as folder,
        (options.output / "processes.log").open("w") as log,
    ):
        certificate = Path(folder)
        make_certificate(certificate)
        for number in range(options.rounds):
            start = time.monotonic()
            rounds.append(run_round(number, adapters, workloads, seconds, certificate, log))
            took = time.monotonic() - start
            print(f"round {number + 1} of {options.rounds}: {took:.0f} s", file=sys.stderr)
    about = {
        name: {"version": adapter.version(), "settings": adapter.settings}
        for name, adapter in adapters.items()
    }
    report = Report(_machine(), about, skipped, seconds, rounds)
    (options.output / "results.json").write_text(json.dumps(report.as_json(), indent=1))
    (options.output / "results.md").write_text(report.as_markdown())
    draw(report, options.output / "results.svg")
    print(report.as_markdown())
    print(f"results.json, results.md and results.svg are in {options.output}")


def _usable(peers: Sequence[str], workloads: Sequence[str]) -> tuple[dict[str, Adapter], list[str]]:
    """Return the peers that are installed, and why others and their workloads are left out."""
    adapters, skipped = {}, []
    for name in peers:
        adapter = load_adapter(name)
        if reason := adapter.not_installed():
            skipped.append(f"{name}: {reason}")
            continue
        adapters[name] = adapter
        left_out: dict[str, list[str]] = {}
        for title in workloads:
            if reason := lacking(adapter, WORKLOADS[title]):
                left_out.setdefault(reason, []).append(title)
        skipped += [f"{name}, {', '.join(titles)}: {why}" for why, titles in left_out.items()]
    return adapters, skipped


def _machine() -> dict[str, str]:
    """Describe the machine and the versions of this run."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
        model += f", {len(names)} cores"
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{model}, {platform.system()} {platform.release()}",
        "date": time.strftime("%Y-%m-%d"),
        "allocator": ", ".join(f"{name}={value}" for name, value in ENVIRONMENT.items()),
    }


if __name__ == "__main__":
    main()
