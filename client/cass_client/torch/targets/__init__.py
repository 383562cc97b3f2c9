"""Finds boxes and image sizes in samples and in collated batches, whichever form they have."""
