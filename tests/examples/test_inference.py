"""The example of machine learning: calls are gathered into batches."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from examples.inference import client as example
from examples.inference.model import predict
from examples.inference.server import Batches, batches, server
from rap.testing import Fleet
from tests.loopback import eventually


async def test_calls_at_the_same_time_share_batches(capsys: pytest.CaptureFixture[str]) -> None:
    batches.sizes.clear()
    async with Fleet(server, 2, client=example.client):
        texts = [f"good {number}" for number in range(100)] + ["bad"]
        answers = await asyncio.gather(*map(example.friendly, texts))
    assert answers == pytest.approx([*predict(["good"]) * 100, *predict(["bad"])])
    assert sum(batches.sizes) >= len(texts)
    assert max(batches.sizes) > 1


async def test_a_full_batch_does_not_wait() -> None:
    gathering = Batches(lambda texts: [float(len(text)) for text in texts], 3, max_wait=3600)
    assert await asyncio.gather(*map(gathering.add, ["a", "bb", "ccc"])) == [1, 2, 3]


async def test_a_single_call_waits_only_for_the_time_of_a_batch() -> None:
    assert await Batches(predict, max_size=1000).add("hello") == 0.5


async def test_a_call_that_was_cancelled_is_left_out() -> None:
    seen: list[Sequence[str]] = []

    def compute(texts: Sequence[str]) -> list[float]:
        seen.append(texts)
        return [1.0 for _ in texts]

    gathering = Batches(compute, 3, max_wait=3600)
    tasks = [asyncio.create_task(gathering.add(text)) for text in "ab"]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await gathering.add("c") == 1.0
    assert await tasks[1] == 1.0
    assert seen == [["b", "c"]]


async def test_an_error_of_the_model_is_that_of_each_call() -> None:
    def compute(texts: Sequence[str]) -> list[float]:
        raise ValueError("the model is broken")

    gathering = Batches(compute, 2)
    outcomes = await asyncio.gather(*map(gathering.add, "ab"), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["the model is broken"] * 2


async def test_a_batch_starts_while_another_is_computed() -> None:
    release = threading.Event()
    running: list[Sequence[str]] = []

    def compute(texts: Sequence[str]) -> list[float]:
        running.append(texts)
        release.wait(30)
        return [1.0 for _ in texts]

    gathering = Batches(compute, 1)
    tasks = [asyncio.create_task(gathering.add(text)) for text in "ab"]
    await eventually(lambda: len(running) == 2)
    release.set()
    assert await asyncio.gather(*tasks) == [1.0, 1.0]
