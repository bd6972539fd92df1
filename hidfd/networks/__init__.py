"""Teacher, student, generator and discriminator."""
