"""Toolgate: an MCP server that governs what AI agents may do with enterprise systems."""

from importlib.metadata import version

__version__ = version("toolgate")
