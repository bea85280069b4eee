"""The wire protocol, without any I/O; PROTOCOL.md beside this file is its specification."""
