"""The public API: every module lists it, and the documented paths lead to it."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import rap

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(rap.__path__, "rap.")
    if not any(part.startswith("_") for part in info.name.split("."))
)

# What the README and the documentation import.
DOCUMENTED = {
    "rap": [
        *("__version__", "Client", "Server", "SyncClient", "Channel", "Session", "context"),
        *("RapError", "CallError", "Code"),
    ],
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
    "rap.api_gateway.app": ["create_app"],
    "rap.common.exceptions": ["BaseRapError", "FuncNotFoundError", "TooManyRequest"],
    "rap.testing": [
        *("FakeClock", "Fleet", "TestClient", "check_compatible", "fake", "handler_call"),
    ],
    "rap.client.model": ["Request", "Response"],
    "rap.errors": ["RapError", "CallError", "Code"],
    "rap.balance": ["Picker", "PowerOfTwoChoices", "Prequal", "picker_from_name"],
    "rap.wire.load_report": ["ServerLoad"],
    "rap.registry.base": ["Endpoint", "Registry", "Resolver", "State"],
}


def modules() -> Iterator[ModuleType]:
    """Yield every public module; one whose extra is not installed is left out."""
    for name in ["rap", *MODULES]:
        try:
            yield importlib.import_module(name)
        except ImportError as exc:  # of a module, or of an extra that its message names
            if (exc.name or "").partition(".")[0] in ("", "rap"):
                raise


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


def wrong_exports(module: ModuleType) -> Iterator[str]:
    """Yield what is wrong with the ``__all__`` of a module."""
    names: list[str] | None = getattr(module, "__all__", None)
    if names is None:
        if not is_bare_package(module):
            yield f"{module.__name__} has no __all__"
        return
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{module.__name__} lists {name} {count} times"
        if not has(module, name):
            yield f"{module.__name__} lists {name} and does not have it"


def test_every_public_module_lists_its_names_and_has_them() -> None:
    found = [each for module in modules() for each in wrong_exports(module)]
    assert not found, "\n".join(found)


def test_every_public_module_says_what_it_is() -> None:
    found = [each.__name__ for each in modules() if not (each.__doc__ or "").strip()]
    assert not found, f"modules without a docstring: {found}"


def test_every_documented_name_is_exported() -> None:
    found = {each.__name__: set(each.__all__) for each in modules() if hasattr(each, "__all__")}
    missing = [
        f"{module}.{name}"
        for module, names in DOCUMENTED.items()
        for name in names
        if name not in found.get(module, ())
    ]
    assert not missing, f"missing in __all__ of their modules: {missing}"


def test_a_wrong_export_is_found() -> None:
    module = ModuleType("shop")
    module.Hat = object  # type: ignore[attr-defined]  # a module with a name
    assert list(wrong_exports(module)) == ["shop has no __all__"]
    module.__all__ = ["Hat", "Hat", "Coat"]  # type: ignore[attr-defined]  # of any module
    assert list(wrong_exports(module)) == [
        "shop lists Hat 2 times",
        "shop lists Coat and does not have it",
    ]
