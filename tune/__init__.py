"""Studies over HiDFD trials: a search, a comparison with controls, and reports, on one machine or a Ray cluster."""
