"""Files that appear whole or not at all."""

import json
import os
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK_BYTES = 2**20


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a temporary name beside `path`; move it over `path` once the block has ended without an error.

    The temporary name keeps the whole suffix (`.nii.gz`), because writers choose their format by it, and starts with
    a dot, so that no listing of results takes it for one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(content: Any, path: Path) -> None:  # noqa: ANN401  JSON is what json.dumps takes
    """Write JSON with two spaces of indent, whole or not at all."""
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", path)


def stamps(files: Iterable[Path]) -> list[str]:
    """What tells each file from an earlier one of its name: size and time; one that is gone is another too."""
    stats = [(path.name, path.stat() if path.exists() else None) for path in files]
    return [f"{name}: {stat.st_size} bytes, {stat.st_mtime_ns}" if stat else f"{name}: missing" for name, stat in stats]


def raise_system_error(path: Path) -> None:
    """Raise what the system says to one more plain block, if it objects: no space left, quota, read-only."""
    with path.open("ab") as handle:
        handle.write(bytes(BLOCK_BYTES))
        handle.flush()
        os.fsync(handle.fileno())
