"""Optimizers and learning rate schedules by name, as a study chooses them."""
