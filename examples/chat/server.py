"""The server of the chat: keeps who is in which room, and passes on what they say."""

import asyncio

from rap import Channel, ResourceExhausted, Server

from .messages import Said

# So many messages may wait for a person who reads slowly; one more, and the person has to leave.
MAX_WAITING = 100

server = Server("localhost:9000")
rooms: dict[str, list["Person"]] = {}


class Person:
    """A person in a room.

    Each has a queue, so that one who reads slowly does not hold up the others.
    """

    def __init__(self, channel: Channel[str, Said]) -> None:
        self._queue: asyncio.Queue[Said] = asyncio.Queue(MAX_WAITING)
        self._sending = asyncio.create_task(self._send(channel))

    def hear(self, said: Said) -> None:
        """Send a message to the person, later."""
        try:
            self._queue.put_nowait(said)
        except asyncio.QueueFull:
            self._sending.cancel()

    async def listen(self, name: str, channel: Channel[str, Said], room: list["Person"]) -> None:
        """Pass on what the person says, until the person leaves or does not read any more."""
        receiving = asyncio.create_task(self._receive(name, channel, room))
        try:
            await asyncio.wait((receiving, self._sending), return_when=asyncio.FIRST_COMPLETED)
            if self._sending.cancelled():
                raise ResourceExhausted(f"you left {MAX_WAITING} messages unread; join again")
        finally:
            receiving.cancel()
            self._sending.cancel()

    async def _receive(self, name: str, channel: Channel[str, Said], room: list["Person"]) -> None:
        async for text in channel:
            tell(room, Said(name, text))

    async def _send(self, channel: Channel[str, Said]) -> None:
        while True:
            await channel.write(await self._queue.get())


def tell(room: list[Person], said: Said) -> None:
    """Send a message to everybody in a room."""
    for person in room:
        person.hear(said)


@server.register
async def chat(channel: Channel[str, Said], room: str, name: str) -> None:
    """Be in a room: write what you say, and read what everybody says."""
    people = rooms.setdefault(room, [])
    person = Person(channel)
    people.append(person)
    tell(people, Said(name, "has come"))
    try:
        await person.listen(name, channel, people)
    finally:
        people.remove(person)
        tell(people, Said(name, "has left"))
        if not people:
            del rooms[room]
