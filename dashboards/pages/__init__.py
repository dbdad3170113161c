"""The pages, one file per noun: what each asks of the store, and which template shows it."""
