"""A day of faults: a service under load, everything that can happen to it, and a verdict."""
