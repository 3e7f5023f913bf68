"""Which model is champion, whether enough is new to tune again, and what a tuned model leaves in a registry."""
