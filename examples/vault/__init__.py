"""What `make vault` runs: a vault, a database, and the gate between them and its callers."""
