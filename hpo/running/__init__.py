"""Running a study: its trials are placed, trained, reported and recorded, whatever goes away meanwhile."""
