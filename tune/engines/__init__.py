"""How pieces of work are run: Ray Tune, this process, or a virtual clock."""
