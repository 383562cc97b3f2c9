"""`make bench-ray`: the ways to a replica on Ray."""
