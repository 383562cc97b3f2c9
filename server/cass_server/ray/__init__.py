"""Replicas of the server on the nodes of a Ray cluster: placed, watched and scaled by Ray Serve."""
