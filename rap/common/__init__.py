"""Old module names of release 0.5.3.8; docs/migration.md lists what replaces them."""
