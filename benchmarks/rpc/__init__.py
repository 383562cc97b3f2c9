"""`make bench-rpc`: the service beside bare gRPC servers and NVIDIA Triton, one core each side."""
