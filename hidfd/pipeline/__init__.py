"""The stages of a trial as a graph with digests, their costs, and the observer of their progress; free of torch."""
