"""Where the API keys come from: the settings, or a file that is read again when it changes."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from gateway.auth.keys import KeyRing, parse_keys
from shared.errors import UsageError

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
"""A file is looked at no more often than that."""

MAX_FILE_BYTES = 1 << 20
"""The longest file of keys: it is read between two tokens of somebody."""

_Signature: TypeAlias = tuple[int, int, int]


class FixedKeys:
    """The keys that the settings themselves hold."""

    def __init__(self, text: str) -> None:
        """Read ``text``: keys, as ``key`` or ``name:key``, with commas between.

        Raises:
            UsageError: one of them cannot be used; the text says which and why.
        """
        parts = [part.strip() for part in text.split(",")]
        entries = [(f"key {n}", part) for n, part in enumerate(parts, 1) if part]
        try:
            self._ring = parse_keys(entries)
        except ValueError as error:
            raise UsageError(f"API_KEYS: {error}") from None

    def current(self, now_s: float) -> KeyRing:
        """The keys, which are always the same."""
        return self._ring


class KeyFile:
    """Keys in a file, one to a line, as ``key`` or ``name:key``; ``#`` begins a comment line."""

    def __init__(self, path: Path, now_s: float, admin_key: str | None = None) -> None:
        """Read the file at ``path``.

        Args:
            path: of the file.
            now_s: the time, by the clock of `current`.
            admin_key: what must not be one of the keys, since it opens more than those.

        Raises:
            UsageError: it cannot be used; the text says why.
        """
        self._path = path
        self._admin_key = admin_key
        self._checked_s = now_s
        self._complaint = ""
        self._signature: _Signature | None = None
        try:
            self._signature = _signature(path)
            self._ring = self._read()
        except (OSError, ValueError) as error:
            raise UsageError(f"API_KEYS=@{path}: {_said(error)}") from None

    def current(self, now_s: float) -> KeyRing:
        """The keys; looks whether the file has changed, if that was not done in this second.

        While the file is wrong or away, the keys that were last read stay; the log says so, once.
        """
        if now_s - self._checked_s >= CHECK_INTERVAL_S:
            self._checked_s = now_s
            self._read_again()
        return self._ring

    def _read_again(self) -> None:
        try:
            signature = _signature(self._path)
            if signature == self._signature:
                return
            self._signature = signature  # what is wrong in this file need not be found twice
            self._ring = self._read()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._signature = None  # it may become readable without a change
            if _said(error) != self._complaint:
                self._complaint = _said(error)
                logger.error("the keys stay as they were: %s: %s", self._path, self._complaint)
            return
        self._complaint = ""
        logger.info("%d API keys read from %s", len(self._ring), self._path)

    def _read(self) -> KeyRing:
        ring = _read(self._path)
        if self._admin_key is not None and ring.name_of([self._admin_key.encode()]) is not None:
            raise ValueError("ADMIN_KEY must not be one of the keys: it opens more than those")
        return ring


KeySource: TypeAlias = FixedKeys | KeyFile


def key_source(text: str, now_s: float, admin_key: str | None = None) -> KeySource:
    """The source that the setting ``API_KEYS`` names: keys, or ``@`` and a file of them.

    Args:
        text: the setting.
        now_s: the time, by the clock of `KeyFile.current`.
        admin_key: what a file of keys must not hold, whenever it is read.

    Raises:
        UsageError: it cannot be used; the text says why, and holds nothing of any key.
    """
    if text.startswith("@"):
        return KeyFile(Path(os.path.expanduser(text[1:])), now_s, admin_key)
    return FixedKeys(text)


def _signature(path: Path) -> _Signature:
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError("this is not a regular file")
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _read(path: Path) -> KeyRing:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"a file of keys may have {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("this is not a text file") from None
    return parse_keys(_entries(text))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield f"line {number}", entry


def _said(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno else str(error)
    return str(error)
