"""The gRPC service around `cass_core`."""
