"""What ours is raced against: other storages, and other ways to choose the next configuration."""
