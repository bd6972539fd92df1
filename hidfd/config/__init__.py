"""Every setting of a trial, and the YAML study file that it comes from; free of torch."""
