"""Programs that show how to use rap. Each runs from the root of the repository."""
