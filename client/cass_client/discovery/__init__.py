"""Where the replicas behind a target ``ray:NAME`` are, as they come and go."""
