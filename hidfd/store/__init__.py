"""The artifact store: content-addressed files on a disk or on S3, and checkpoints."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return `Store` on demand: `from hidfd.store import Store` is the documented import."""
    if name == "Store":
        from hidfd.store.store import Store

        return Store
    raise AttributeError(f"module 'hidfd.store' has no attribute {name!r}")
