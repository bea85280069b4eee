"""The pages under docs/ tell the truth: their programs run, their options are the real ones."""

import builtins
import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from rap.client import Client
from rap.client.config import CallOptions, ClientConfig, StubOptions
from rap.options import DeclaredOption, Options, declared_options
from rap.server import Server
from rap.server.config import HandlerOptions, ServerConfig
from rap.transport.options import ConnectionOptions, KeepaliveOptions
from tests.option_texts import DOCSTRINGS, Text, texts
from tests.test_readme import Block, Example, blocks_of, examples_of, run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
MIB = 1024 * 1024


OWNERS: dict[Callable[..., object], type[Options]] = {Server: ServerConfig, Client: ClientConfig}
OPTIONS = [
    pytest.param(make, declared, id=f"{make.__name__} {declared.name}")
    for make, config in OWNERS.items()
    for declared in declared_options(config)
]
ALL_OPTIONS = OPTIONS + [
    pytest.param(kind, declared, id=f"{kind.__name__} {declared.name}")
    for kind in (HandlerOptions, StubOptions, CallOptions)
    for declared in declared_options(kind)
]
# A connection's window is never less than a stream's, so both bounds need the other option too.
BESIDE = {
    ("connection_window", "least"): {"stream_window": 65536},
    ("stream_window", "most"): {"connection_window": 1073741824},
}


@pytest.mark.parametrize("text", list(texts()), ids=lambda text: text.path)
def test_what_is_made_from_the_declarations_of_options_is_current(text: Text) -> None:
    content = (ROOT / text.path).read_text()
    assert text.apply(content) == content, "run python -m tests.option_texts"


@pytest.mark.parametrize(("config", "owner", "module"), DOCSTRINGS)
def test_a_docstring_has_every_option_that_is_taken(
    config: type[Options], owner: str, module: str
) -> None:
    taker = attrgetter(owner)(import_module(module.removesuffix(".py").replace("/", ".")))
    taken = inspect.signature(taker).parameters
    entries = re.findall(r"^    (\w+): ", inspect.getdoc(taker) or "", re.MULTILINE)
    declared = [each.name for each in declared_options(config)]
    assert [name for name in declared if name in taken and name not in entries] == []


def test_a_text_belongs_to_one_declaration() -> None:
    configs: list[type[Options]] = [*OWNERS.values(), ConnectionOptions, KeepaliveOptions]
    configs += [HandlerOptions, StubOptions, CallOptions]
    found = {each.option for config in configs for each in declared_options(config)}
    assert len({option.text for option in found}) == len(found)


@pytest.mark.parametrize("config", list(OWNERS.values()))
def test_every_option_is_declared(config: type[Options]) -> None:
    options = [*config.__struct_fields__]
    assert options == [declared.name for declared in declared_options(config)]


@pytest.mark.parametrize("make", list(OWNERS))
def test_the_signature_of_a_constructor_has_every_option(make: Callable[..., object]) -> None:
    found = {name: it.default for name, it in inspect.signature(make).parameters.items()}
    declared = {it.name: it.default for it in declared_options(OWNERS[make])}
    assert found == declared


@pytest.mark.parametrize(("make", "declared"), ALL_OPTIONS)
def test_a_description_is_made_of_sentences(
    make: Callable[..., object], declared: DeclaredOption
) -> None:
    text = declared.option.text
    assert text[0].isupper()
    assert text.endswith(".")


@pytest.mark.parametrize(("make", "declared"), ALL_OPTIONS)
def test_every_number_has_a_bound_and_a_unit(
    make: Callable[..., object], declared: DeclaredOption
) -> None:
    if declared.kind in (int, float):
        assert declared.option.bounds or make is CallOptions  # a timeout may be computed
        assert declared.option.unit or declared.name == "weight"


@pytest.mark.parametrize(("make", "declared"), ALL_OPTIONS)
def test_a_default_is_a_value_that_is_allowed(
    make: Callable[..., object], declared: DeclaredOption
) -> None:
    declared.check(declared.default)


# Such as `lease_ttl` (10 s) in the text of a page.
DEFAULT = re.compile(r"`(\w+)` \(([\d,.]+)(?: (s|min|ms|MiB|KiB|%))?\)")
SCALE = {"": 1, "s": 1, "min": 60, "ms": 0.001, "MiB": MIB, "KiB": 1024, "%": 0.01}
DEFAULTS = defaultdict[str, set[object]](set, {"drain_delay": {1}})  # 1 with a registry
for _config in (ServerConfig, ClientConfig, HandlerOptions, StubOptions, CallOptions):
    for _declared in declared_options(_config):
        if isinstance(_declared.default, int | float):
            DEFAULTS[_declared.name].add(_declared.default)
NAMED = [
    pytest.param(name, float(number.replace(",", "")) * SCALE[unit], id=f"{page} {name}")
    for page, text in PAGES.items()
    for name, number, unit in DEFAULT.findall(text)
    if name in DEFAULTS
]


@pytest.mark.parametrize(("name", "value"), NAMED)
def test_a_default_that_a_page_names_is_the_declared_one(name: str, value: float) -> None:
    assert value in DEFAULTS[name]


def test_pages_name_many_defaults() -> None:
    assert len(NAMED) > 12


@pytest.mark.parametrize(("make", "declared"), OPTIONS)
def test_a_bound_is_the_last_value_that_is_allowed(
    make: Callable[..., object], declared: DeclaredOption
) -> None:
    for side, allowed, refused in sides(declared):
        beside = BESIDE.get((declared.name, side), {})
        make(**{declared.name: allowed, **beside})
        with pytest.raises(ValueError, match=f"{declared.name} must be"):
            make(**{declared.name: refused})


@pytest.mark.parametrize(("make", "declared"), OPTIONS)
def test_there_is_no_greatest_value_but_the_declared_one(
    make: Callable[..., object], declared: DeclaredOption
) -> None:
    if declared.option.bounds and declared.option.most is None:
        make(**{declared.name: 10**15})


def sides(declared: DeclaredOption) -> Iterator[tuple[str, float, float]]:
    """Yield each bound of an option: its side, a value that is allowed and one that is not."""
    option = declared.option
    step = 1 if declared.kind is int else 0.01
    least = 16 * MIB if option.least == "max_message" else option.least
    if option.above is not None:
        yield "above", option.above + step, option.above
    if least is not None:
        assert not isinstance(least, str)
        yield "least", least, least - step
    if option.most is not None:
        yield "most", option.most, option.most + step


EXAMPLES = [
    pytest.param(example, id=f"{page} {example}")
    for page, text in PAGES.items()
    for example in examples_of(blocks_of(text))
]
BLOCKS = [
    pytest.param(block, id=f"{page} line {block.line}")
    for page, text in PAGES.items()
    for block in blocks_of(text)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_docs_runs(example: Example, tmp_path: Path) -> None:
    run(example, tmp_path)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_docs_is_python(block: Block) -> None:
    compile(block.code, "docs", "exec")


def test_the_files_that_the_architecture_names_exist() -> None:
    page = PAGES["architecture.md"]
    named = set(re.findall(r"`((?:[a-z_]+/)*[\w.]+\.(?:py|md|json|yml))`", page))
    folders = [ROOT, ROOT / "rap", *(path for path in (ROOT / "rap").rglob("*") if path.is_dir())]
    missing = {name for name in named if not any((each / name).exists() for each in folders)}
    assert len(named) > 60
    assert not missing, f"docs/architecture.md names files that do not exist: {sorted(missing)}"


def test_the_architecture_names_every_module_and_folder() -> None:
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", PAGES["architecture.md"], re.MULTILINE))
    modules = [path.relative_to(ROOT / "rap") for path in (ROOT / "rap").rglob("*.py")]
    wanted = {
        (package, inner[0] + "/" if len(inner) > 1 else inner[0])
        for package, *inner in (path.parts for path in modules)
        if inner and not inner[0].startswith("__")
    }
    missing = [f"{package}/{name}" for package, name in wanted if f"`{name}`" not in rows[package]]
    assert not missing, f"add to the table Packages of docs/architecture.md: {sorted(missing)}"


def test_the_classes_that_the_architecture_names_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", PAGES["architecture.md"]))
    paths = [*(ROOT / "rap").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    sources = "\n".join(path.read_text() for path in paths)
    defined = set(re.findall(r"^(?:class )?([A-Z]\w+)\b", sources, re.MULTILINE))
    assert len(named) > 30
    missing = named - defined - set(dir(builtins))
    assert not missing, f"docs/architecture.md names unknown classes: {sorted(missing)}"
