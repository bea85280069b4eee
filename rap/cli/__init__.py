"""The command line: `rap serve`, `rap demo`."""
