"""Devices, precision, processes, and random numbers that do not depend on them."""
