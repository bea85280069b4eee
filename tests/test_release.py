"""What is released: its metadata, the contents of wheel and sdist, and the workflows."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import rap
from tests.cli.programs import PATIENCE

pytest.importorskip("hatchling", reason="the extra dev has it")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
URL = "https://code.example/rap"
LINK = re.compile(r"\]\(([^()\s]+)\)")
SUPPORTED = [f"3.{minor}" for minor in range(11, 16)]


def hatchling(*args: str, url: str = "") -> str:
    """Run the build backend in the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "hatchling", *args],
        cwd=ROOT,
        env={**os.environ, "RAP_PROJECT_URL": url},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=PATIENCE,
    ).stdout


@cache
def metadata(url: str) -> dict[str, Any]:
    found = json.loads(hatchling("metadata", url=url))
    assert isinstance(found, dict)
    return found


# The metadata.


def test_without_an_address_the_long_description_has_no_link_to_a_file() -> None:
    text = metadata("")["readme"]["text"]
    links = LINK.findall(text)
    assert [each for each in links if not re.match("https?://|#", each)] == []
    assert "docs/get-started.md" not in text
    assert "Get started takes ten minutes" in text
    assert "urls" not in metadata("")


def test_with_an_address_the_links_of_the_long_description_lead_to_the_files_of_the_tag() -> None:
    text = metadata(f"{URL}/")["readme"]["text"]
    pages = [each for each in LINK.findall(text) if each.startswith(URL)]
    assert [each for each in LINK.findall(text) if not re.match("https?://|#", each)] == []
    assert len(pages) > 20
    for page in pages:
        kind, ref, path = page.removeprefix(f"{URL}/").split("/", 2)
        assert kind in ("blob", "raw")
        assert ref == f"v{rap.__version__}"
        assert (ROOT / path.partition("#")[0]).is_file(), page
    assert f"({URL}/raw/v{rap.__version__}/docs/assets/demo.svg)" in text


def test_with_an_address_the_metadata_has_those_of_the_project() -> None:
    urls = metadata(URL)["urls"]
    assert urls.keys() == {"Homepage", "Documentation", "Changelog", "Source", "Issues"}
    for each in urls.values():
        path = each.partition(f"/blob/v{rap.__version__}/")[2]
        assert each.startswith(URL)
        assert not path or (ROOT / path).is_file()


def test_code_in_the_long_description_is_that_of_the_readme() -> None:
    fences = re.compile(r"^```.*?^```$", re.M | re.S)
    readme = (ROOT / "README.md").read_text()
    assert fences.findall(metadata("")["readme"]["text"]) == fences.findall(readme)


def test_the_metadata_says_who_what_and_for_which_pythons() -> None:
    found = metadata("")
    assert found["version"] == rap.__version__
    assert found["authors"] == [{"name": "rap contributors"}]
    assert found["license"] == "Apache-2.0"
    assert "Typing :: Typed" in found["classifiers"]
    prefix = "Programming Language :: Python :: "
    named = [each.removeprefix(prefix) for each in found["classifiers"] if prefix in each]
    assert [each for each in named if re.fullmatch(r"3\.\d+", each)] == SUPPORTED
    assert not [each for each in found["classifiers"] if each.startswith("License ::")]


# What is built.


def tracked_files() -> set[str]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout of git")
    return {each for each in listed.split("\0") if each and (ROOT / each).is_file()}


def test_the_sdist_has_the_files_of_the_repository_and_no_other(tmp_path: Path) -> None:
    hatchling("build", "--target", "sdist", "--directory", str(tmp_path))
    (built,) = tmp_path.iterdir()
    with tarfile.open(built) as archive:
        members = archive.getmembers()
    names = {each.name.partition("/")[2] for each in members}
    kept = {each for each in tracked_files() if not each.startswith(".ci/")}
    assert names == kept | {"PKG-INFO"}
    assert all(each.isfile() for each in members)
    assert built.stat().st_size < 4 * 1024 * 1024


def test_the_wheel_has_the_package_and_no_other_file(tmp_path: Path) -> None:
    hatchling("build", "--target", "wheel", "--directory", str(tmp_path))
    (built,) = tmp_path.iterdir()
    assert built.name == f"rap-{rap.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(built).namelist())
    info = f"rap-{rap.__version__}.dist-info"
    kept = {each for each in tracked_files() if each.startswith("rap/")}
    assert {each for each in names if not each.startswith(info)} == kept
    assert {"rap/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names


# The workflows.


def commands(text: str) -> list[str]:
    return re.findall(r"run: make ([\w-]+)", text)


def test_every_command_of_a_workflow_is_a_target_of_the_makefile() -> None:
    named = [each for path in WORKFLOWS for each in commands(path.read_text())]
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.M))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert set(named) <= targets & set(phony.split())
    assert {"lint", "test", "integration", "docs", "dist", "workflows-check"} <= set(named)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_pins_what_it_uses(path: Path) -> None:
    text = path.read_text()
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("permissions:") == 1
    used = re.findall(r"uses: (.*)", text)
    assert used
    for each in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert text.count("runs-on:") == text.count("timeout-minutes:")
    assert "secrets." not in text


def test_the_tests_run_on_every_python_that_is_supported() -> None:
    (matrix,) = re.findall(r"python: \[(.*)\]", (WORKFLOWS[0]).read_text())
    assert [each.strip('" ') for each in matrix.split(",")] == SUPPORTED
    (made,) = re.findall(r"^VERSIONS = (.*)$", MAKEFILE, re.M)
    assert sorted(made.split()) == SUPPORTED
    assert PROJECT["requires-python"] == f">={SUPPORTED[0]}"
    assert f"CPython {SUPPORTED[0]} to {SUPPORTED[-1]}" in (ROOT / "docs/support.md").read_text()


def test_the_tools_of_a_release_have_lower_bounds() -> None:
    lines = (ROOT / "release" / "requirements.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[\w-]+>=\d+(\.\d+)*", line), line


# The changelog.


def test_the_changelog_opens_with_the_promise_and_its_newest_release_is_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    opening, _, releases = text.partition("\n## ")
    assert "Keep a Changelog" in opening
    assert "docs/support.md" in opening
    newest = re.match(r"\[?(\d+\.\d+\.\d+)\]?", releases)
    assert newest is not None
    assert rap.__version__.startswith(newest[1])
