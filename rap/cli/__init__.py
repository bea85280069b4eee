"""The command line, ``rap``. It needs the extra ``rap[cli]``.

`rap.cli.app` lists the commands; `rap.cli.commands` has one module for each. No other package of
rap imports `click`, `rich` or `uvloop`.
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
