"""The scripts behind every speed that this project states."""
