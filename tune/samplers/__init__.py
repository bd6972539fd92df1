"""Samplers that suggest settings: Optuna's, and a stage-aware Gaussian process; free of torch."""
