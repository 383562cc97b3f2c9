"""Messages and service of version 1, generated from ``cass.proto``."""
