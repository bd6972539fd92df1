"""A study on the terminal and as JSON lines."""
