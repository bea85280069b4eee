"""What all tests of the shop need."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own databases."""
    monkeypatch.setenv("SHOP_DATA", str(tmp_path))
