"""The public API: every module lists it, and the documented paths lead to it."""

import importlib
import pkgutil
from types import ModuleType

import pytest

import rap

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(rap.__path__, "rap.")
    if not any(part.startswith("_") for part in info.name.split("."))
)

# What the README and the documentation import.
DOCUMENTED = {
    "rap": ["__version__"],
    "rap.server": ["Server", "Channel", "Session", "Request", "Response", "context"],
    "rap.server.model": ["Request", "Response"],
    "rap.server.middleware": [
        "BaseConnMiddleware",
        "BaseMsgMiddleware",
        "AccessMsgMiddleware",
        "ConnLimitMiddleware",
        "IpMaxConnMiddleware",
        "IpBlockMiddleware",
    ],
    "rap.server.processor": [
        "BaseProcessor",
        "CryptoProcessor",
        "CompressProcessor",
        "LimitProcessor",
        "TracingProcessor",
        "OpenTelemetryProcessor",
        "PrometheusProcessor",
    ],
    "rap.client.processor": [
        "BaseProcessor",
        "CryptoProcessor",
        "CompressProcessor",
        "TracingProcessor",
        "OpenTelemetryProcessor",
        "PrometheusProcessor",
    ],
    "rap.observe": ["serve_metrics", "StatusCollector"],
    "rap.client": ["Client", "Channel", "Session", "Request", "Response", "SyncClient"],
    "rap.gateway": ["create_app"],
    "rap.api_gateway": ["create_app"],
    "rap.client.model": ["Request", "Response"],
    "rap.errors": ["RapError", "CallError", "Code"],
    "rap.balance": ["Picker", "PowerOfTwoChoices", "Prequal", "picker_from_name"],
    "rap.wire.load_report": ["ServerLoad"],
    "rap.registry.base": ["Endpoint", "Registry", "Resolver", "State"],
}


def load(name: str) -> ModuleType:
    """Import a module; skip one that needs an extra that is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:  # of a module, or of an extra that its message names
        if (exc.name or "").partition(".")[0] in ("", "rap"):
            raise
        pytest.skip(f"{name} needs {exc.name}")


def has(module: ModuleType, name: str) -> bool:
    """Whether the module has the name; some exist only while a handler runs, and say so."""
    try:
        return hasattr(module, name)
    except RuntimeError:
        return True


def is_bare_package(module: ModuleType) -> bool:
    """Whether it is a package that only holds modules, and so has nothing to list."""
    values = [value for name, value in vars(module).items() if not name.startswith("_")]
    return hasattr(module, "__path__") and all(isinstance(v, ModuleType) for v in values)


@pytest.mark.parametrize("name", ["rap", *MODULES])
def test_every_public_module_lists_its_names_and_has_them(name: str) -> None:
    module = load(name)
    names = getattr(module, "__all__", None)
    if names is None:
        assert is_bare_package(module), f"{name} has no __all__"
        return
    assert len(set(names)) == len(names)
    missing = [exported for exported in names if not has(module, exported)]
    assert missing == []


@pytest.mark.parametrize("name", ["rap", *MODULES])
def test_every_public_module_says_what_it_is(name: str) -> None:
    assert (load(name).__doc__ or "").strip()


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in DOCUMENTED.items() for name in names]
)
def test_every_documented_name_is_exported(module: str, name: str) -> None:
    assert name in load(module).__all__
