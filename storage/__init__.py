"""The history: every study and trial ever run, in one SQL database."""
