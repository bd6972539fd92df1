"""Measures of teachers, students and generators."""
