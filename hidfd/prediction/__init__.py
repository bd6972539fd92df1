"""Classes of a user's own images, as a student in a store or an exported one names them."""
