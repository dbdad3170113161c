"""What to try next, what to stop early, and when to end: an Optuna sampler, pruners, a stopping rule."""
