"""A run on this machine, under kfp's local runner."""
