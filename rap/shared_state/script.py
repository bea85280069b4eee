"""The Lua scripts of shared state, by name."""

from importlib.resources import files

from rap.redis.client import Script

__all__ = ["load_script"]


def load_script(name: str) -> Script:
    """Return the script in ``scripts/<name>.lua``."""
    return Script((files("rap.shared_state") / "scripts" / f"{name}.lua").read_text())
