"""The dashboard is one that Grafana can lay out, and finds what is provisioned."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from integration.dashboard import DASHBOARD, expressions

GRAFANA = DASHBOARD.parents[1]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
    return set(itertools.product(columns, rows))


def test_panels_have_a_place_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert not taken & cells(panel), panel["title"]
        taken |= cells(panel)
    assert max(column for column, _ in taken) < 24
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_every_query_goes_to_the_source_that_was_chosen() -> None:
    for panel in panels():
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert {"$job", "$instance"} <= set(re.findall(r"\$[a-z]+", target["expr"]))


def test_the_source_that_is_provisioned_is_chosen_at_first() -> None:
    source, *_ = json.loads(DASHBOARD.read_text())["templating"]["list"]
    provisioned = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert f"uid: {source['current']['value']}" in provisioned


def test_what_is_mounted_is_where_grafana_looks() -> None:
    provider = (GRAFANA / "provisioning" / "dashboards" / "rap.yml").read_text()
    (path,) = re.findall(r"path: (\S+)", provider)
    compose = (GRAFANA.parent / "docker-compose.yml").read_text()
    assert f"./grafana/dashboards:{path}:ro" in compose


def test_a_variable_that_nobody_fills_in_is_told(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps({"templating": {"list": []}, "panels": [{"targets": [{"expr": "up{a=$b}"}]}]})
    )
    with pytest.raises(ValueError, match=r"other.json: nobody knows the variable in up\{a=\$b\}"):
        list(expressions(other))
