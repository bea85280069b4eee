"""The wire protocol, without I/O. PROTOCOL.md in this folder is its specification."""
