"""Overload control of a server: which calls begin, which wait, and which are refused.

`gate.py` begins calls in slices of the event loop's time, and lets the others wait. `lookout.py`
finds functions whose calls wait after they have begun, and `limits.py` limits how many of them run.
`refusals.py` answers the calls that would begin too late, and counts them.
"""
