"""A study on the terminal: tables, live display, explanations, and JSON lines for programs."""
