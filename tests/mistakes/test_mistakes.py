"""Every mistake has the text that its rating promises, and the ratings are good."""

from collections import Counter

import pytest

from tests.mistakes.all import MISTAKES, average
from tests.mistakes.catalogue import Mistake


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.name)
def test_the_text_of_a_mistake_has_what_its_rating_promises(mistake: Mistake) -> None:
    text = mistake.text()
    missing = [each for each in mistake.markers if each not in text]
    assert not missing, f"{missing} not in: {text}"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: each.name)
def test_a_rating_is_backed_by_parts_of_the_text(mistake: Mistake) -> None:
    parts = (mistake.what, mistake.where, mistake.remedy)
    assert 0 <= mistake.rating <= 3
    assert len(mistake.markers) == sum(map(bool, parts)), "a part is declared for each point"
    assert all(mistake.markers)
    assert len({*mistake.markers}) == len(mistake.markers), "one part says one thing"


def test_the_texts_are_good_on_average_and_none_is_poor() -> None:
    assert len(MISTAKES) >= 60
    assert average() >= 2.8
    assert [each.name for each in MISTAKES if each.rating < 2] == []


def test_each_mistake_has_one_name() -> None:
    names = Counter(each.name for each in MISTAKES)
    assert [name for name, count in names.items() if count > 1] == []
