"""The training loop that every trained stage shares."""
