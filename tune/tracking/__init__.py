"""The study in MLflow: runs, curves, artifacts, and the registered student."""
