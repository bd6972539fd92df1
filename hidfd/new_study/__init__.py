"""A study file for a teacher and folders of photos that nobody has described yet: `python -m hidfd new`."""
