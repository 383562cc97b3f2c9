"""Engines compute masks and losses, on the CPU or on a GPU."""
