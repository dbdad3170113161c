"""How past runs come into the history: a reader for each place where runs are kept, and one intake for all.

Readers: `mlflow` and `lightning` (with `logged`), `optuna` (with `optuna_storages`), `table` (with `tables` and
`recorded`). What they find they hand over as `runs`; what was tuned they guess with `inference`, or are told by a
`mapping`. `intake` makes `rows` of it, writes them, widens `spaces` where it must, raises `flags` and makes a `report`.
"""
