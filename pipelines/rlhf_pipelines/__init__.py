"""The pipelines, their compilation, where they run, and the `rlhf` command."""
