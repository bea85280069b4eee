"""The command line, ``rap``: needs the extra ``rap[cli]``.

One file a command; `rich` and `uvloop` are imported nowhere else in rap.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    try:
        from rap.cli.app import main as run

        run()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.exit(f"the command rap needs {missing}: install rap[cli]")
