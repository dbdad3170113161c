"""What history implies before the first trial: pure functions from past tasks to proposals."""
