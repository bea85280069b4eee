"""What the annotations of a function say, and what its values become on the wire."""
