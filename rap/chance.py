"""Chance for all clients of a process that were not given a source of their own."""

import os
import random

__all__ = ["random_of", "shared_random"]

# To seed a generator takes 8 us, a tenth of what making a client takes.
_shared = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.seed)  # a child must not draw the same lots


def shared_random() -> random.Random:
    """Return the generator that everybody may use, from any thread."""
    return _shared


def random_of(rng: random.Random | None) -> random.Random:
    """Return the generator of an option: the shared one for `None`.

    Raises:
        ValueError: It is no generator.
    """
    if rng is None:
        return _shared
    if not isinstance(rng, random.Random):
        raise ValueError(f"rng must be a random.Random, got {rng!r}")
    return rng
