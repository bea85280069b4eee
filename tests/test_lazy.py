"""Processors load by name; what needs an extra says so, and what does not loads without it."""

import subprocess
import sys
from pathlib import Path

import pytest

import rap.client.processor
import rap.server.processor
from rap._lazy import Lazy, loader

ROOT = Path(__file__).parents[2]
WITHOUT_EXTRAS = """
import sys
for name in ("Crypto", "cryptography", "prometheus_client", "opentelemetry", "opentracing"):
    sys.modules[name] = None
import rap.client.processor, rap.server.processor
from rap.client.processor import BaseProcessor, CompressProcessor
from rap.server.processor import BaseProcessor, CompressProcessor
for module in ("client", "server"):
    for name in ("Crypto", "Prometheus", "PrometheusMessage", "OpenTelemetry", "Tracing"):
        try:
            exec(f"from rap.{module}.processor import {name}Processor")
        except ImportError as error:
            print(error)
try:
    from rap.observe import serve_metrics
except ImportError as error:
    print(error)
"""


def test_without_the_extras_only_the_names_that_need_them_are_missing() -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    missing = {
        "CryptoProcessor": "crypto",
        "PrometheusProcessor": "metrics",
        "PrometheusMessageProcessor": "metrics",
        "OpenTelemetryProcessor": "otel",
        "TracingProcessor": "opentracing",
    }
    lines = [f"{name} needs the extra {x}: install rap[{x}]" for name, x in missing.items()]
    page = "serve_metrics needs the extra metrics: install rap[metrics]"
    assert ran.stdout.splitlines() == [*lines, *lines, page]


@pytest.mark.parametrize("side", [rap.client.processor, rap.server.processor])
def test_a_name_that_nobody_has_is_an_attribute_error(side: object) -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        side.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_two_sides_have_their_own_crypto_processor() -> None:
    assert rap.client.processor.CryptoProcessor.__name__ == "ClientCryptoProcessor"
    assert rap.server.processor.CryptoProcessor.__name__ == "ServerCryptoProcessor"
    assert rap.client.processor.BaseProcessor is rap.server.processor.BaseProcessor


def test_a_module_of_rap_that_is_missing_is_not_blamed_on_an_extra() -> None:
    load = loader("here", {"Thing": Lazy("rap.processor.nothing", "Thing", "crypto")})
    with pytest.raises(ModuleNotFoundError, match=r"rap\.processor\.nothing"):
        load("Thing")


QUIET = """
import asyncio, contextvars, gc, logging, signal, sys, threading, warnings

def state():
    return (
        type(asyncio.events._event_loop_policy),  # to ask for it is deprecated
        [signal.getsignal(number) for number in signal.valid_signals()],
        [logger.handlers + logger.filters for logger in loggers()],
        [logger.level for logger in loggers()],
        threading.active_count(), sys.excepthook, sys.getrecursionlimit(), gc.get_threshold(),
        warnings.filters[:],
    )

def loggers():
    return [logging.getLogger(name) for name in ("", "asyncio", "rap", "rap.server", "rap.client")]

before = state()
import importlib, pkgutil, rap
for found in pkgutil.walk_packages(rap.__path__, "rap."):
    if found.name != "rap.cli.__main__":
        importlib.import_module(found.name)
        assert state() == before, found.name
"""


def test_importing_rap_changes_nothing_outside_of_it() -> None:
    command = [sys.executable, "-c", QUIET]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
