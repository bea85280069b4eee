"""Source code of stubs from descriptions."""
