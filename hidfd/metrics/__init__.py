"""What students and generators are judged by."""
