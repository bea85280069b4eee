"""Tells the reference what the source of rap does not show; mkdocs.yml names this extension.

A function that takes ``**options`` tells `inspect` its parameters when rap runs. Some methods are
functions of other modules.
"""

import inspect
import re
from importlib import import_module
from typing import Any

from griffe import (
    Class,
    Docstring,
    Extension,
    Function,
    Module,
    Object,
    Parameter,
    ParameterKind,
    Parameters,
)

MODULE = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])")


# The object that such a function takes first, in its docstring.
FIRST = re.compile(r"^    client: .*\n(?: {8}.*\n)*", re.MULTILINE)
# Classes of rap that take functions of other modules as methods.
ADOPTING = ("client.client.Client", "client.sync.client.SyncClient")


class OptionsExtension(Extension):  # type: ignore[misc]
    """Replaces ``**options`` by the options, and finds methods that other modules define."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Describe functions that a class takes from elsewhere, such as ``bind = bind``."""
        for path in ADOPTING:
            owner = pkg[path]
            for name, member in list(owner.members.items()):
                if name.startswith("_") or not member.is_attribute:
                    continue
                if inspect.isfunction(getattr(runtime(owner), name, None)):
                    adopt(owner, pkg, name)

    def on_function(self, *, func: Function, **_: Any) -> None:
        """Add the parameters of one function."""
        static = list(func.parameters)
        if not static or static[-1].name != "options" or not takes_options(func):
            return
        if describes_options(func) or describes_options(func.parent):
            return
        named = {each.name for each in static}
        found = [
            Parameter(it.name, annotation=words(it.annotation), kind=kind(it), default=value(it))
            for it in inspect.signature(runtime(func)).parameters.values()
            if it.name not in named
        ]
        if found:
            func.parameters = Parameters(*static[:-1], *found)


def adopt(owner: Class, pkg: Module, name: str) -> None:
    """Make a function of a module a method of a class."""
    found = getattr(runtime(owner), name)
    source = pkg[f"{found.__module__}.{found.__qualname__}".removeprefix("rap.")]
    others = list(source.parameters)[1:]
    is_static = isinstance(inspect.getattr_static(runtime(owner), name), staticmethod)
    made = Function(
        name,
        lineno=source.lineno,
        endlineno=source.endlineno,
        parameters=Parameters(*source.parameters if is_static else (Parameter("self"), *others)),
        returns=source.returns,
        docstring=Docstring(FIRST.sub("", source.docstring.value), parser=source.docstring.parser),
    )
    made.docstring.parent = made
    owner.set_member(name, made)


def takes_options(func: Function) -> bool:
    """Return whether a decorator gives a function its options."""
    return any("options" in str(each.value) for each in func.decorators)


def describes_options(owner: Object) -> bool:
    """Return whether a docstring describes ``**options`` as a whole, as one of other functions."""
    return owner.docstring is not None and " options: " in owner.docstring.value


def runtime(func: Object) -> Any:
    """Return the function or class itself."""
    found: Any = import_module(func.module.path)
    for name in func.path.removeprefix(func.module.path + ".").split("."):
        found = getattr(found, name)
    return found


def words(annotation: Any) -> str:
    """Return a type without the modules of its names."""
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return MODULE.sub("", str(annotation))


def kind(parameter: inspect.Parameter) -> ParameterKind:
    """Return how a parameter is given."""
    return ParameterKind(parameter.kind.description)


def value(parameter: inspect.Parameter) -> str | None:
    """Return the default of a parameter as code."""
    return None if parameter.default is parameter.empty else repr(parameter.default)
