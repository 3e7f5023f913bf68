"""Models and their text: loading, tokenizers, the one text format, the reward model."""
