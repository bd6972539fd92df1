"""How tasks are run: Ray Tune, this process, or a virtual clock."""
