"""What a study does next: all decisions, without Ray and without torch."""
