"""The RPC layer: from gRPC's bytes to checked requests and back."""
