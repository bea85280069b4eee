"""What the environment of a process says."""

import os
from pathlib import Path

LISTEN = os.environ.get("SHOP_LISTEN", "localhost:0")
REGISTRY = os.environ.get("SHOP_REGISTRY", "redis://localhost:6379/0")
TRACES = os.environ.get("SHOP_TRACES", "none")  # or console, or otlp


def data() -> Path:
    """Return the folder of the databases."""
    return Path(os.environ.get("SHOP_DATA", "."))
