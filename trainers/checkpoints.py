"""How is a checkpoint kept, so that one that can be read is always there?"""

from __future__ import annotations

import os
from pathlib import Path

import lightning


def save(trainer: lightning.Trainer, checkpoint: Path) -> None:
    """Replace the checkpoint at once or not at all. To be called by every rank."""
    partial = checkpoint.with_suffix(".partial")
    trainer.save_checkpoint(partial)
    if trainer.is_global_zero:
        _sync(partial)
        partial.replace(checkpoint)
        _sync(partial.parent)


def _sync(path: Path) -> None:
    """Force a file or folder to disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
