"""What a study is: its settings, search space and tasks, as plain data. Torch-free."""
