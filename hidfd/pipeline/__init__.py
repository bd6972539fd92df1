"""The stage graph of a trial, what stages cost, and how a trial reports progress. Torch-free."""
