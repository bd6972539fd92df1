"""A study's memory: Optuna's storage in SQLite or PostgreSQL, with one writer; free of torch."""
