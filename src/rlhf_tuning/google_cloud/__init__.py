"""Vertex AI over REST: its registry, its endpoints, its TensorBoard."""
