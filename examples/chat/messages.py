"""What the client and the server of the chat share."""

from dataclasses import dataclass


@dataclass
class Said:
    """A message as everybody in the room gets it."""

    name: str
    text: str
