"""`rap compat`: two versions of a server are compared."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rap import Server
from rap.cli.app import rap
from rap.testing import check_compatible
from tests.cli.shop import invoke
from tests.loopback import serving

OLD = """
from rap import Server

server = Server()

@server.register
async def buy(sku: str, count: int = 1) -> int:
    return count

@server.register
async def gone() -> None: ...

@server.register
async def same(n: int) -> int:
    return n
"""
NEW = OLD.replace("async def gone() -> None: ...", "async def new() -> None: ...").replace(
    "count: int = 1", "count: int = 1, gift: bool = False"
)
SAID = """\
default/buy: changed
  old clients, new servers: works
  new clients, old servers: some calls fail
    gift is not taken, if it is given
default/gone: removed
  old clients, new servers: fails
    the function is removed
  new clients, old servers: works
default/new: added
  old clients, new servers: works
  new clients, old servers: fails
    the function is new
3 of 4 functions changed; in any order of updates, some calls fail
"""


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions of a program, importable from here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("version_old.py").write_text(OLD)
    Path("version_new.py").write_text(NEW)


def compat(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(rap, ["compat", *args])
    return result.exit_code, result.output


@pytest.mark.usefixtures("versions")
def test_each_function_that_has_changed_is_judged() -> None:
    assert compat("version_old:server", "version_new:server") == (1, SAID)


@pytest.mark.usefixtures("versions")
def test_the_exit_status_depends_on_what_is_updated_first() -> None:
    more = "@server.register\nasync def more() -> None: ..."
    Path("version_more.py").write_text(f"{OLD}\n{more}\n")
    programs = "version_old:server", "version_more:server"
    assert compat(*programs)[0] == 0
    assert compat(*programs, "--order", "clients-first")[0] == 1
    assert compat(*programs, "--order", "any")[0] == 1
    assert compat(*reversed(programs), "--order", "clients-first")[0] == 0
    assert "update the servers first" in compat(*programs)[1]
    assert compat(programs[0], programs[0]) == (
        0,
        "0 of 3 functions changed; update servers and clients in any order\n",
    )


@pytest.mark.usefixtures("versions")
def test_json_has_verdicts_and_reasons() -> None:
    status, output = compat("version_old:server", "version_new:server", "--json")
    buy, *_ = json.loads(output)
    assert status == 1
    assert buy == {
        "function": "default/buy",
        "change": "changed",
        "old_clients": {"verdict": "works", "reasons": []},
        "new_clients": {"verdict": "some", "reasons": ["gift is not taken, if it is given"]},
    }


async def buy(sku: str, count: int = 1) -> int:
    return count


async def test_a_running_server_is_compared_with_what_describe_wrote(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    async with serving(buy) as server:
        path.write_text((await invoke(server, "describe", "--json")).stdout)
        result = await invoke(None, "compat", str(path), str(server.addresses[0]))
    assert result.output.endswith(
        "0 of 1 functions changed; update servers and clients in any order\n"
    )
    assert check_compatible(path, server)[0].change == "same"


async def test_a_service_in_a_registry_is_compared_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    registry = f"file://{tmp_path}/registry"
    async with serving(buy, service="shop", registry=registry, drain_delay=0) as server:
        path.write_text((await invoke(server, "describe", "--json")).stdout)
        result = await invoke(None, "compat", str(path), "shop", "--registry", registry)
    assert "0 of 1 functions changed" in result.output
    assert result.exit_code == 0


def test_a_contract_test_fails_with_what_would_go_wrong(tmp_path: Path) -> None:
    old, new = Server(), Server()
    old.register(buy)

    @new.register(name="buy")
    async def buy_more(sku: str, count: int) -> int:
        return count

    from rap.schema.reflection import describe

    path = tmp_path / "old.json"
    path.write_text(json.dumps([describe(each) for each in old.handlers]))
    wrong = "default/buy, old clients: some calls fail: count is required, if it is left out"
    with pytest.raises(AssertionError, match=wrong):
        check_compatible(path, new)
    assert check_compatible(path, new, order="clients-first")[0].change == "changed"
    with pytest.raises(ValueError, match="order must be one of"):
        check_compatible(path, new, order="sideways")
    with pytest.raises(ValueError, match="rap describe --json"):
        check_compatible({"shop": 1}, new)


@pytest.mark.parametrize("source", ["nothing.json", "no such thing", "nowhere:server"])
def test_a_source_that_is_none_is_refused(source: str) -> None:
    status, output = compat(source, source)
    assert status == 2
    assert source.partition(":")[0] in output
