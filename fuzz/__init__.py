"""Fuzzing of what reads bytes from the network; run `make fuzz`."""
