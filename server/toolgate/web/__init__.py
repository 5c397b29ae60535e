"""What the world sees: MCP and HTTP. Translates, decides nothing."""
