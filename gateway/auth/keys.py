"""API keys: how they are written down, and which of them a request brought."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from starlette.types import Scope

MIN_KEY_LENGTH = 8
"""Shorter keys are refused: they can be found by trying."""

_KEY = re.compile(r"[!-~]+")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_BEARER = b"bearer"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, of which only a hash is kept.

    Attributes:
        name: whose it is, for the log and the limits; several keys may have the same name.
        digest: SHA-256 of the key.
    """

    name: str
    digest: bytes


class KeyRing:
    """Keys that are looked through in the same time whichever of them fits."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        """Hold ``keys``."""
        self._keys = tuple(keys)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._keys)

    def name_of(self, candidates: Sequence[bytes]) -> str | None:
        """The name of the first of ``candidates`` that is one of the keys; None if none is."""
        found: str | None = None
        for candidate in reversed(candidates):
            digest = _digest(candidate)
            for key in self._keys:
                # Neither the comparison nor the loop ends early.
                if hmac.compare_digest(key.digest, digest):
                    found = key.name
        return found


def parse_keys(entries: Iterable[tuple[str, str]]) -> KeyRing:
    """Make a ring of keys written as ``key`` or ``name:key``.

    Args:
        entries: for each key where it is written, e.g. ``line 3``, and its text. A key without a
            name is called by its place among all, e.g. ``key-1``.

    Raises:
        ValueError: one of them cannot be used, or there is none; the text says where and why, and
            holds nothing of any key.
    """
    keys: dict[bytes, ApiKey] = {}
    for number, (where, text) in enumerate(entries, 1):
        name, colon, key = text.partition(":")
        if not colon:
            name, key = f"key-{number}", text
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{where}: the name before the colon must be 1 to 64 letters, digits and . _ @ -"
            )
        if not _KEY.fullmatch(key):
            raise ValueError(f"{where}: a key must be of visible ASCII characters, without spaces")
        if len(key) < MIN_KEY_LENGTH:
            raise ValueError(f"{where}: a key must have at least {MIN_KEY_LENGTH} characters")
        digest = _digest(key.encode())
        if digest in keys:
            raise ValueError(f"{where}: this key is there already, as {keys[digest].name}")
        keys[digest] = ApiKey(name, digest)
    if not keys:
        raise ValueError("there is no key")
    return KeyRing(keys.values())


def presented_keys(scope: Scope) -> list[bytes]:
    """The keys that a request brought: ``Authorization: Bearer KEY`` first, then ``x-api-key``."""
    bearer: list[bytes] = []
    plain: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == _BEARER:
                bearer.append(key.strip())
        elif name == b"x-api-key":
            plain.append(value.strip())
    # A client sends each header once; what repeats them only wants to be compared often.
    return bearer[:1] + plain[:1]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
