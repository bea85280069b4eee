"""``rap demo``: a cluster of real processes, what happens to it, and what its client notices.

`command` reads the options, `scenario` is the story, `fleet` and `backend` are the processes in
it, `replica` is what one of them runs, `traffic` the calls, `board` and `table` what is shown
meanwhile, `summary` what is said at the end.
"""
