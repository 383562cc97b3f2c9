"""What a server reports: metrics, traces, logs."""
