"""A study's HTML page and figures, made from a snapshot."""
