"""Compiled loops for the CPU (numba). Imported by the first call that needs them."""
