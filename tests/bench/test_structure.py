"""What the text of a small package tells, of which everything is known."""

from pathlib import Path
from textwrap import dedent

import pytest

from bench.structure import static_figures

FILES = {
    "__init__.py": '"""Nothing."""\n',
    "ground.py": """
        '''The ground.

        Two paragraphs.
        '''

        # A comment.
        class Stone:
            '''A stone.'''

            weight = 0


        def lift(stone: Stone) -> None:
            stone.weight = 0
        """,
    "house/__init__.py": "from tiny.house.roof import Roof\n",
    "house/roof.py": """
        from typing import TYPE_CHECKING

        from tiny.ground import Stone, lift

        if TYPE_CHECKING:
            from tiny.house.wall import Wall


        class Roof:
            def __init__(self, wall: "Wall") -> None:
                self.wall = wall
                self.wall.roof = self


        def build(stone: Stone, wall: "Wall") -> None:
            lift(stone)
            stone.weight += 1
            roof = Roof(wall)
            roof.wall = wall
            for each in [stone]:
                each.weight, other = 2, 3
        """,
    "house/wall.py": """
        from . import roof
        from ..ground import Stone


        class Wall:
            roof: "roof.Roof"

            def paint(self) -> None:
                from tiny.paint import RED

                self.colour = RED
        """,
    "paint.py": """
        RED = 1


        def mix() -> None:
            import tiny.house.wall
        """,
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).removeprefix("\n"))
    return tmp_path / "tiny"


def test_sizes_are_of_every_unit(package: Path) -> None:
    figures = static_figures(package)
    assert figures["units"]["tiny"] == {"files": 1, "lines": 1, "code": 0}
    assert figures["units"]["ground"] == {"files": 1, "lines": 14, "code": 4}
    assert figures["units"]["house"]["files"] == 3
    assert figures["total"]["files"] == 6


def test_an_import_from_another_unit_is_an_arrow_and_a_name(package: Path) -> None:
    figures = static_figures(package)
    assert figures["arrows"] == ["house -> ground", "house -> paint", "paint -> house"]
    assert figures["names across units"] == 4  # Stone counts once, RED, lift, and the module wall


def test_a_cycle_is_told_by_when_it_is_imported(package: Path) -> None:
    cycles = static_figures(package)["cycles"]
    assert cycles["when modules are loaded"] == []
    assert cycles["and inside functions"] == [["tiny.house.wall", "tiny.paint"]]
    assert cycles["and under TYPE_CHECKING"] == [
        ["tiny.house.roof", "tiny.house.wall", "tiny.paint"]
    ]


def test_a_friend_sets_what_belongs_to_another_file(package: Path) -> None:
    figures = static_figures(package)
    assert figures["worst friends"] == {
        "house/roof.py": ["12: self.wall.roof", "17: stone.weight", "21: each.weight"]
    }
    assert figures["friends"] == 3
