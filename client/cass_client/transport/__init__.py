"""Connections to servers: channels, credentials, targets, and what a fork does to them."""
