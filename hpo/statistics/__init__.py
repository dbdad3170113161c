"""What past runs say about hyperparameters: pure functions from arrays to estimates with intervals."""
