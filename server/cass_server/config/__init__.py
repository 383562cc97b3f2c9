"""What a server is set to: settings and their sources, limits, addresses."""
