"""Measures of students and generators."""
