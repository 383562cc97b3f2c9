"""The contract of the CASS service: generated messages and their conversion."""
