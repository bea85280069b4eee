"""Upload and download of files in pieces, with progress.

Run the server, then the client, from the root of the repository::

    rap serve examples.upload.server:server
    python -m examples.upload.client put README.md
    python -m examples.upload.client get README.md copy.md

A download that was interrupted goes on where it stopped.
"""
