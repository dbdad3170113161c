"""What is searched over: spaces, how configurations become points, and how one space relates to another."""
