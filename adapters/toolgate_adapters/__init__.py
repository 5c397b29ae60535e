"""The stock adapters, found by entry point like those of a stranger."""
