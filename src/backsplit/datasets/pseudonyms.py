"""Names for patients that do not give them away: a keyed hash, with a key that the user holds."""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from backsplit.errors import ConfigurationError

NUM_DIGITS = 12
NUM_KEY_BYTES = 32


def default_salt_file() -> Path:
    """Where the key is kept unless the user says otherwise: in the user's own configuration, not beside any output."""
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "backsplit" / "salt"


def read_salt(path: Path | None = None, *, output: Path) -> bytes:
    """The key; made, for the user's eyes only, where there is none yet.

    Args:
        path: file of the key, by default `default_salt_file`.
        output: folder that will be passed on, where the key must not lie.

    Raises:
        ConfigurationError: the file lies in the output, or holds too little to be a key.
    """
    path = path or default_salt_file()
    if path.resolve().is_relative_to(output.resolve()):
        raise ConfigurationError(
            f"{path} is in {output}: who gets that could name the patients; keep the salt elsewhere"
        )
    if not path.exists():
        _make_salt(path)
    salt = path.read_bytes().strip()
    if len(salt) < NUM_KEY_BYTES // 2:
        raise ConfigurationError(
            f"{path} holds {len(salt)} bytes, expected a salt of 16 or more; remove it for a new one"
        )
    return salt


def _make_salt(path: Path) -> None:
    """Write a new key in one step; the one of a process that was faster is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent)  # readable by the user alone
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_hex(NUM_KEY_BYTES).encode())
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        Path(unfinished).unlink()


def pseudonym(identifier: str, salt: bytes, *, prefix: str) -> str:
    """`prefix` and 12 hexadecimal digits: the same for the same identifier and salt, and of no use without the salt."""
    digest = hmac.new(salt, identifier.encode(), hashlib.sha256).hexdigest()
    return f"{prefix}-{digest[:NUM_DIGITS]}"
