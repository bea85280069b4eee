"""A server process: ``python -m bench.serve PEER PORT SETUP``."""

import sys

from bench.peers import load_adapter

__all__: list[str] = []

if __name__ == "__main__":
    load_adapter(sys.argv[1]).serve(int(sys.argv[2]), sys.argv[3])
