"""`make bench-overload`: a server on one core under floods, huge requests and idle connections."""
