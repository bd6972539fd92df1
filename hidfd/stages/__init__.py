"""The stages of a trial, a file each; they never import each other."""
