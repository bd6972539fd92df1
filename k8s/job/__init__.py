"""A study's job on the cluster: submit, watch, delete."""
