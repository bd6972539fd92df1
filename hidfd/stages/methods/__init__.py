"""Methods beside HiDFD, and the training of a student, which all methods share."""
