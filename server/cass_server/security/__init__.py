"""Who may call, and over what: TLS and bearer tokens, from files that may be replaced."""
