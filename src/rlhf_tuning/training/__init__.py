"""The training steps, one file a method, and what they share."""
