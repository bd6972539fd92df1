"""What a study is: its settings, search space and pieces of work, as plain data. Torch-free."""
