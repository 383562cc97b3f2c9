"""How much is computed at once, how much may wait, and which requests share a launch."""
