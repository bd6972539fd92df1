"""Every decision about what a study does next, without Ray and without torch."""
