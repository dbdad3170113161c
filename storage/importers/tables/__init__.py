"""How CSV and Parquet files of one row per run are read, whatever their columns are called."""
