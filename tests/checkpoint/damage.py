"""Damage to stored entries, as disks and interrupted copies cause it."""

import os
import shutil


def damage(directory, how):
    """Damages a stored entry; returns nothing, as a disk does."""
    parts = [path for path in directory.rglob("*") if path.is_file()]
    # Orbax leaves copies of what each process wrote, which it does not read.
    largest = max(parts, key=lambda path: (path.stat().st_size, "ocdbt.process" not in str(path)))
    if how == "truncated":
        os.truncate(largest, largest.stat().st_size // 2)
    elif how == "missing":
        largest.unlink()
    elif how == "garbage":
        largest.write_bytes(bytes(range(256)) * 8)
    elif how == "one bit":
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    elif how == "no head":
        shutil.rmtree(directory / "head")
    elif how == "other head":
        (directory / "head" / "metadata").write_text('{"about": "{}"}')
    elif how == "empty":
        shutil.rmtree(directory)
        directory.mkdir()


DAMAGES = ("truncated", "missing", "garbage", "one bit", "no head", "other head", "empty")
