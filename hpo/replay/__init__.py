"""Tuning methods replayed on tasks whose runs are already recorded."""
