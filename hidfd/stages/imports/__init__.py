"""The import of the user's images, weights and networks into the store, where they are known by their content."""
