"""The networks of teachers and students, one family a module."""
