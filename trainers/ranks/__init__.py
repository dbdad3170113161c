"""Trials on several devices: how their ranks start, work together and end."""
