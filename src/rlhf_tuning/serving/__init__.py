"""How a tuned model is served."""
