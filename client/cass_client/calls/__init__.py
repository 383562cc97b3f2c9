"""One call without its transport: its requests, tries, chunks and local fallback."""
