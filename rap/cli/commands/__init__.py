"""The commands of ``rap``, one a module."""
