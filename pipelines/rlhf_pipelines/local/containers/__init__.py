"""The steps of a local run in containers."""
