"""What a study is: its file, what the trainers get of it, and what its trials amount to."""
