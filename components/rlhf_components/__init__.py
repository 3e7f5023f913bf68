"""KFP components, one file each: a signature, a docstring and a short body that calls `rlhf_tuning`."""
