"""One fit of a trial: from its parts to its outcome, epoch by epoch."""
