"""`make bench-fleet`: a simulated fleet, checked against a real server."""
