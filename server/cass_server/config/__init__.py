"""Configuration: settings and their sources, limits of requests, addresses."""
