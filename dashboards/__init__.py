"""What people look at: figures, and the pages that show them."""
