"""The `toolgate` command."""

from toolgate.cli.app import main

__all__ = ["main"]
