"""The dashboard is valid for Grafana, and uses the provisioned data source."""

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


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert not taken & cells(panel), panel["title"]
        taken |= cells(panel)
    assert max(column for column, _ in taken) < 24
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_every_query_uses_the_chosen_data_source() -> None:
    for panel in panels():
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert {"$job", "$instance"} <= set(re.findall(r"\$[a-z]+", target["expr"]))


def test_the_provisioned_data_source_is_the_default() -> None:
    source, *_ = json.loads(DASHBOARD.read_text())["templating"]["list"]
    provisioned = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert f"uid: {source['current']['value']}" in provisioned


def test_the_mounted_files_are_where_grafana_looks() -> None:
    provider = (GRAFANA / "provisioning" / "dashboards" / "rap.yml").read_text()
    (path,) = re.findall(r"path: (\S+)", provider)
    compose = (GRAFANA.parent / "docker-compose.yml").read_text()
    assert f"./grafana/dashboards:{path}:ro" in compose


def test_an_undefined_variable_is_reported(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(
        json.dumps({"templating": {"list": []}, "panels": [{"targets": [{"expr": "up{a=$b}"}]}]})
    )
    with pytest.raises(ValueError, match=r"other.json: nobody knows the variable in up\{a=\$b\}"):
        list(expressions(other))
