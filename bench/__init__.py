"""Measurements, always beside a baseline in the same run. Never a test: a machine may be slow."""
