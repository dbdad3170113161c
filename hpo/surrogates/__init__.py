"""Models of a task's losses, and what is worth evaluating by them: arrays in, arrays out."""
