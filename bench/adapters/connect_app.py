"""The application of `bench.adapters.connect_py`, as its server looks for it."""

from bench.adapters.connect_py import make_app

__all__ = ["app"]

app = make_app()
