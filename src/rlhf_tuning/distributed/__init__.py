"""Several processes: how they share a step, and how a model is divided among them."""
