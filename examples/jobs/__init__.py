"""Long jobs that move to another server when theirs is stopped, drained or killed.

Run three servers and the client, from the root of the repository. While the client runs, kill the
server that it names; the job goes on at another::

    rap serve examples.jobs.server:server --workers 3
    python -m examples.jobs.client 3000000
"""
