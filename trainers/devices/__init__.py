"""Devices and their memory: which a trial gets, whose they are, and what happens where they are too small."""
