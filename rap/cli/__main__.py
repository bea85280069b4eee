"""Runs the command line: ``python -m rap.cli`` is the same as ``rap``."""

from rap.cli import main

if __name__ == "__main__":
    main()
