"""`make bench-loader`: what masks cost a DataLoader."""
