"""The pages for operators have a section for each alert and each panel, and name what exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.dashboard import DASHBOARD
from tests.observe.prometheus import RULES
from tests.observe.test_documented import NAME, documented

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "operations"
RUNBOOK = (PAGES / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
ALERT = re.compile(r"- alert: (\w+)\n(?:(?! +- alert:).*\n)*? +runbook_url: (\S+)\n")
GREP = re.compile(r"grep (?:-E )?(?:'([^']+)'|(\w+)) LOG")
PARTS = ["Means", "Users see", "Confirm", "Act", "Over when"]


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert sorted(SECTIONS) == sorted(alerts)


def test_each_alert_points_to_its_section() -> None:
    found = dict(ALERT.findall(RULES.read_text()))
    assert found == {name: f"docs/operations/runbook.md#{name.lower()}" for name in SECTIONS}


@pytest.mark.parametrize("alert", SECTIONS)
def test_a_section_says_what_it_means_and_what_to_do(alert: str) -> None:
    assert re.findall(r"^- \*\*(.+?)\*\*", SECTIONS[alert], re.MULTILINE) == PARTS


def panels() -> Iterator[tuple[str, str]]:
    row = ""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            yield row, panel["title"]


def explained() -> Iterator[tuple[str, str]]:
    section = ""
    for line in (PAGES / "dashboards.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif (cell := re.match(r"\| (.*?) \|", line)) and cell[1] not in ("Panel", "---"):
            yield section, cell[1]


def test_each_panel_of_the_dashboard_is_explained_in_its_order() -> None:
    assert list(explained()) == list(panels())


@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md")))
def test_a_page_names_documented_metrics_only(page: str) -> None:
    named = {name.removesuffix("_bucket") for name in NAME.findall((PAGES / page).read_text())}
    recorded = {"rap_server_failed", "rap_client_failed", "rap_server_handled"}
    assert named - recorded <= {each.name for each in documented()}


def test_what_the_runbook_looks_for_in_logs_is_logged() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "rap").rglob("*.py"))
    patterns = [quoted or plain for quoted, plain in GREP.findall(RUNBOOK)]
    assert len(patterns) > 6
    assert [each for each in patterns if each != "WARNING" and not re.search(each, sources)] == []
