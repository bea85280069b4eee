"""Faults and attacks, measured one after the other; run `make faults`."""
