"""A job's life: submit, watch, delete."""
