"""``python -m rap.cli`` is ``rap``."""

from rap.cli import main

if __name__ == "__main__":
    main()
