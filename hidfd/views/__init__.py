"""The images as networks see them: which ones, cropped, mixed, and drawn anew or kept with the teacher's answers."""
