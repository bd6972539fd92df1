"""A study's report page, its figures and its results in words, made from a snapshot."""
