"""Connections to servers: effects and those who carry them out, channels, credentials, forks."""
