"""What a run will need in memory and time, before it starts."""
