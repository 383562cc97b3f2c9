"""What all benchmarks share: times, processes, workloads."""
