"""Figures as files: each a function from an answer to a drawing."""
