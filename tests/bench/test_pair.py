"""How the processes of a peer are started."""

from bench.pair import ENVIRONMENT
from rap.cli.runtime import _MALLOC_OPTIONS


def test_the_environment_sets_the_allocator_as_rap_serve_does() -> None:
    told = {
        name.strip("_").replace("MALLOC", "M"): int(value) for name, value in ENVIRONMENT.items()
    }
    assert told == {name: value for name, (_, value) in _MALLOC_OPTIONS.items()}
