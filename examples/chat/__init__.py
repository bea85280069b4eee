"""A chat: people in rooms exchange messages over channels.

Run the server and two clients in three terminals, from the root of the repository::

    rap serve examples.chat.server:server
    python -m examples.chat.client tea Ada
    python -m examples.chat.client tea Bob

Each line that you type goes to everybody in the room.
"""
