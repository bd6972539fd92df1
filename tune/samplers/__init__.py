"""Where suggestions come from: Optuna, or the stage-aware Gaussian process. Torch-free."""
