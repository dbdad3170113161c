"""The processes of trials: forked from a warm template, tied to the study, watched."""
