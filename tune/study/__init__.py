"""A study as plain data: its settings, search space, tasks and snapshots; free of torch."""
