"""MCP clients that work with the gate, one script each, to copy; `make clients` runs them all."""
