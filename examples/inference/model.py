"""A model in the place of a real one: it tells whether a text is friendly."""

import math
from collections.abc import Sequence

WEIGHTS = {"good": 2.0, "great": 2.5, "thanks": 1.5, "bad": -2.0, "broken": -2.5, "never": -1.0}


def predict(texts: Sequence[str]) -> list[float]:
    """Return for each text how likely it is that it is friendly, 0 to 1.

    A real model computes a batch in little more time than a single text.
    """
    scores = (sum(WEIGHTS.get(word, 0.0) for word in text.lower().split()) for text in texts)
    return [1 / (1 + math.exp(-score)) for score in scores]
