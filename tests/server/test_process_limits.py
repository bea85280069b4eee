"""Defaults from what the system allows: control groups of both versions, and the machine."""

import os
from pathlib import Path

import pytest

from rap.server.process_limits import default_max_memory

MIB = 1024 * 1024
QUARTER = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def system(root: Path, groups: str, **limits: str) -> str:
    """Write the files of a system; names of limits have `__` for a slash, and `_` for a dot."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in limits.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path = path.with_name(path.name.replace("_max", ".max").replace("y_limit", "y.limit"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_half_of_the_limit_of_a_control_group_of_version_2(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/app\n", app__memory_max=f"{256 * MIB}\n")
    assert default_max_memory(root=root) == 128 * MIB


def test_half_of_the_limit_of_a_control_group_of_version_1(tmp_path: Path) -> None:
    groups = "9:name=systemd:/\n4:cpu,memory:/app\n0::/\n"
    root = system(tmp_path, groups, memory__app__memory_limit_in_bytes=f"{200 * MIB}\n")
    assert default_max_memory(root=root) == 100 * MIB


def test_the_lowest_limit_on_the_way_to_the_top_counts(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        "0::/pod/app\n",
        pod__app__memory_max="max\n",
        pod__memory_max=f"{512 * MIB}\n",
    )
    assert default_max_memory(root=root) == min(256 * MIB, QUARTER)


def test_in_a_container_the_top_is_the_group_of_the_process(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/../../pod/of/the/host\n", memory_max=f"{128 * MIB}\n")
    assert default_max_memory(root=root) == 64 * MIB


@pytest.mark.parametrize(
    ("groups", "limits"),
    [
        ("0::/app\n", {"app__memory_max": "max\n"}),
        ("4:memory:/\n", {"memory__memory_limit_in_bytes": "9223372036854771712\n"}),
        ("0::/gone\n", {}),
        ("", {}),
    ],
)
def test_without_a_limit_it_is_a_quarter_of_the_machine(
    tmp_path: Path, groups: str, limits: dict[str, str]
) -> None:
    assert default_max_memory(root=system(tmp_path, groups, **limits)) == QUARTER


def test_workers_share_it_but_each_can_serve(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/\n", memory_max=f"{256 * MIB}\n")
    assert default_max_memory(2, root=root) == 64 * MIB
    assert default_max_memory(100, root=root) == 32 * MIB
