"""One script that measures a GPU in minutes: its peaks, the GPU tests, the steps' rates, and the paper's recipe."""
