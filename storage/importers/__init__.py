"""How past runs come into the history: a reader for each place where runs are kept, and one intake for all."""
