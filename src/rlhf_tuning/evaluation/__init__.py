"""Is the tuned model better: the judges, the comparison of answers, and the gate that promotes."""
