"""Checks of the cluster and of the study file, before a study is submitted."""
