"""The demo: a cluster of real processes, what happens to it, and what its client notices.

`scenario` is the sequence of events. `fleet` and `backend` run the processes: replicas and the
registry. `replica` is the program of one replica. `traffic` makes the calls. `monitor` measures the
cluster and `display` shows it. The command is `rap.cli.commands.demo`.
"""
