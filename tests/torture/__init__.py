"""Kills gates in the middle of calls, wherever it matters, and looks whether the promises were kept."""
