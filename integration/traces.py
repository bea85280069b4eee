"""A trace of gateway → orders → calc, with a failed attempt: ``python -m integration.traces``.

All are processes of their own, and there are two of ``calc``. One freezes and gets calls all the
same. It is killed while they wait and before it is suspect, so ``orders`` tries the other one. It
is done once with OTLP over HTTP and once with jaeger-client over UDP. What comes to the collector
is printed as a tree; the exit status is 1 if a parent in it is wrong.
"""

import argparse
import json
import random
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from integration.stage import HTTP_PORT, PATIENCE, Machine
from integration.tree import Step, broken, tree
from tests.collectors import Collected, Collector, JaegerAgent, OtlpCollector

__all__ = ["STEPS", "WAYS", "Trace", "look", "trace"]

STEPS: Sequence[Step] = (
    ("gateway", "client", "default/total"),
    ("orders", "server", "default/total"),
    ("orders", "client", "default/add"),
    ("calc", "server", "default/add"),
)
# The collector, and the header by which a caller names its span.
WAYS: dict[str, tuple[type[Collector], str, Callable[[int, int], str]]] = {
    "otlp": (OtlpCollector, "traceparent", lambda *ids: "00-{:032x}-{:016x}-01".format(*ids)),
    "jaeger": (JaegerAgent, "uber-trace-id", lambda *ids: "{:x}:{:x}:0:1".format(*ids)),
}

_ORDERS = ("-m", "rap.cli", "serve", "integration.app.orders:make")
_HTTP = ("-m", "uvicorn", "--factory", "integration.app.http:make")
_STUCK = 0.15  # seconds without an answer: the frozen instance has the call, and is not suspect yet
_AT_ONCE = 16  # calls: more than the cost of any makes one instance better than the other


class Trace(NamedTuple):
    """What has come of one trace.

    Args:
        trace_id: Its id.
        parent: Id of the span of whoever asked the gateway.
        spans: Of the gateway and behind it.
    """

    trace_id: int
    parent: int
    spans: Sequence[Collected]


def trace(way: str, directory: Path) -> Trace:
    """Run the system, make the call, and return its trace.

    Args:
        way: By which spans are sent, one of `WAYS`.
        directory: Empty, for logs.
    """
    make_collector, header, form = WAYS[way]
    with make_collector() as collector, _System(directory, collector.environ) as system:
        asked = system.fail_an_attempt(header, form)

        def of(spans: list[Collected], trace_id: int) -> list[Collected]:
            return [span for span in spans if span.trace_id == trace_id]

        def enough(spans: list[Collected]) -> bool:
            return all(len(of(spans, trace_id)) >= len(STEPS) for trace_id, _ in asked)

        spans = collector.wait_for(enough, PATIENCE)
    found = [Trace(*ids, of(spans, ids[0])) for ids in asked]
    for each in found:
        if any("UNAVAILABLE" in codes for codes in _attempts(each.spans).values()):
            return each
    raise RuntimeError("no call went to the frozen instance")


def _attempts(spans: Sequence[Collected]) -> dict[str, list[object]]:
    """Return why each attempt of the calls of ``orders`` was made, by the name of the span."""
    return {
        span.name: [
            fields.get("rap.retried.code") for name, fields in span.events if name == "rap.attempt"
        ]
        for span in spans
        if (span.service, span.kind) == ("orders", "client")
    }


def look(found: Trace) -> list[str]:
    """Return what is wrong with a trace."""
    wrong = broken(found.spans, found.parent, STEPS)
    for name, codes in _attempts(found.spans).items():
        if codes != [None, "UNAVAILABLE"]:
            wrong.append(f"the attempts of {name} were made after {codes}")
    return wrong


class _System:
    """The gateway, ``orders``, and two instances of ``calc``."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._machine = machine = Machine(directory)
        try:
            self._doomed, _ = (machine.calc(name, directory, **environ) for name in ("a", "b"))
            orders = machine.run("orders", _ORDERS, directory, APP_LISTEN=machine.listen, **environ)
            orders.wait_for("rap: listening on")
            gateway = machine.run("gateway", (*_HTTP, *machine.http_options), directory, **environ)
            gateway.wait_for("Uvicorn running on")
        except BaseException:
            machine.close()
            raise
        self._url = f"http://{machine.address_of(gateway, HTTP_PORT)}/orders/call/default/total"

    def __enter__(self) -> "_System":
        return self

    def __exit__(self, *exc: object) -> None:
        self._machine.close()

    def fail_an_attempt(
        self, header: str, form: Callable[[int, int], str]
    ) -> list[tuple[int, int]]:
        """Return trace and span of the requests that waited when an instance was killed."""
        self._ask({})  # so that everything is connected
        self._doomed.freeze()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked: dict[Future[Any], tuple[int, int]] = {}
            for _ in range(_AT_ONCE):
                ids = random.getrandbits(128) | 1, random.getrandbits(64) | 1
                asked[pool.submit(self._ask, {header: form(*ids)})] = ids
            stuck = wait(asked, timeout=_STUCK).not_done
            self._doomed.kill()
            for answer in asked:
                assert answer.result(PATIENCE) == {"code": 0, "data": 7}
        return [asked[each] for each in stuck]

    def _ask(self, headers: dict[str, str]) -> Any:
        body = json.dumps({"prices": [7]}).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        with open_url(request, timeout=PATIENCE) as answer:
            return json.load(answer)


def main() -> None:
    """Do it by each way, and print the trees."""
    parser = argparse.ArgumentParser(prog="python -m integration.traces", description=__doc__)
    parser.add_argument(
        "ways", nargs="*", choices=[[], *WAYS], help="otlp, jaeger; by default both"
    )
    wrong = []
    for way in parser.parse_args().ways or WAYS:
        with tempfile.TemporaryDirectory() as directory:
            found = trace(way, Path(directory))
        print(f"{way}: trace {found.trace_id:032x}, asked for by span {found.parent:016x}")
        print("\n".join(tree(found.spans, found.parent)))
        wrong += [f"{way}: {each}" for each in look(found)]
    if wrong:
        sys.exit("\n".join(wrong))
    print("every parent is right")


if __name__ == "__main__":
    main()
