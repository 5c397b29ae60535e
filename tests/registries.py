"""What tests do with the starter's registry, which comes with a lock."""

from pathlib import Path


def unlocked(root: Path) -> Path:
    """Take the lock out of a deployment: in dev mode every operation that the test admits is served then."""
    (root / "registry" / "lock.toml").unlink()
    return root


def notes_only(root: Path) -> Path:
    """Take the audit tools out of a deployment's registry and its lock."""
    (root / "registry" / "audit.toml").unlink()
    lock = root / "registry" / "lock.toml"
    head, *tables = lock.read_text("utf-8").split("\n[tools.")
    kept = [table for table in tables if not table.startswith('"audit.')]
    lock.write_text("\n[tools.".join([head, *kept]), "utf-8")
    return root
