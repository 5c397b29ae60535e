"""What tests do with the starter's registry, which comes with a lock."""

from pathlib import Path


def unlocked(root: Path) -> Path:
    """Take the lock out of a deployment: in dev mode every operation that the test admits is served then."""
    (root / "registry" / "lock.toml").unlink()
    return root
