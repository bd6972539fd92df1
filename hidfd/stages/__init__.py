"""The stages of a trial, which never import each other, and what they share."""
