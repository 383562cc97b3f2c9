"""TLS and bearer tokens, from files that may be replaced while the server runs."""
