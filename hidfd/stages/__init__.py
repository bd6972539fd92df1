"""The stages of a trial, one file each, which never import each other."""
