"""The client of the model: late calls are also sent to the other server."""

import asyncio
import os

from rap import Client

client = Client(service="inference", registry=f"file://{os.getcwd()}/registry")


@client.register(idempotent=True, hedge=True)
async def friendly(text: str) -> float:
    """Return how likely it is that a text is friendly, 0 to 1."""
    raise NotImplementedError


async def main() -> None:
    texts = ["good work, thanks", "it is broken", "never again, bad service", "hello"]
    async with client:
        answers = await asyncio.gather(*map(friendly, texts))
    for text, answer in zip(texts, answers, strict=True):
        print(f"{answer:4.0%}  {text}")


if __name__ == "__main__":
    asyncio.run(main())
