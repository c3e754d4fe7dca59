"""Being here puts this folder on the path, so that any test can `from tiny import ...`."""
