"""`make bench`: masks and losses beside what they replace."""
