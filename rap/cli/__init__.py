"""The command line, ``rap``: needs the extra ``rap[cli]``.

One file a command; `rich` and `uvloop` are imported nowhere else in rap.
"""

try:
    from rap.cli.app import main
except ModuleNotFoundError as exc:
    missing = (exc.name or "").partition(".")[0]
    if missing not in ("click", "rich"):
        raise
    raise ImportError(f"rap.cli needs {missing}: install rap[cli]", name=missing) from exc

__all__ = ["main"]
