"""How folders in the recorded-table format are read, column by column."""
