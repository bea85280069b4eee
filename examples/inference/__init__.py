"""Machine learning: a server that gathers calls into batches, and a client that hedges.

Run two servers and the client, from the root of the repository::

    rap serve examples.inference.server:server --workers 2
    python -m examples.inference.client
"""
