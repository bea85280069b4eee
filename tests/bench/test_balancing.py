"""The comparison of pickers prints a line for each, and the same figures for the same seeds."""

import sys

import pytest

from bench import balancing
from bench.balancing import POLICIES, Scenario, simulate

SMALL = Scenario(servers=4, clients=2, load=0.6, slow=0.5, antagonised=0.25, seconds=2.0)


def test_a_table_has_a_line_for_each_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(balancing, "SCENARIOS", {"a small one": SMALL})
    monkeypatch.setattr(sys, "argv", ["balancing", "--seeds", "2"])
    balancing.main()
    _, title, _, *lines = capsys.readouterr().out.splitlines()
    assert title == "a small one: 4 servers, 2 clients"
    assert [line[:22].strip() for line in lines] == list(POLICIES)
    assert sum(int(line.split()[-1].partition("/")[0]) for line in lines) == 2


@pytest.mark.parametrize("name", POLICIES)
def test_chance_comes_from_the_seed(name: str) -> None:
    assert simulate(POLICIES[name], SMALL, 1) == simulate(POLICIES[name], SMALL, 1)
    assert simulate(POLICIES[name], SMALL, 1) != simulate(POLICIES[name], SMALL, 2)


def test_only_who_goes_by_reports_asks() -> None:
    asked = {name: simulate(policy, SMALL, 1).asked for name, policy in POLICIES.items()}
    assert asked.pop("prequal") > 0.0
    assert set(asked.values()) == {0.0}
