"""Tests of whole systems: real processes, a real Redis, and what goes wrong with them."""
