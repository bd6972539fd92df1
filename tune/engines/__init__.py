"""Engines that run tasks: on Ray Tune, in this process, or on a virtual clock."""
