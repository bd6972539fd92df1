"""A trial's folder and its HTML page."""
