"""Is the tuned model better: judges, the comparison of answers, the gate; and how well a reward model agrees with people."""
