"""API keys: how they are written down, where they come from, and who gets in without one."""

import hashlib
import hmac
import logging
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.observe.record import record_of
from shared.errors import ErrorCode, UsageError, reason_of

logger = logging.getLogger(__name__)

MIN_KEY_LENGTH = 8  # shorter keys can be found by trying
MAX_FILE_BYTES = 1 << 20  # it is read on the event loop, between two tokens of somebody
OPEN_PATHS = ("/health", "/ready")  # for everybody; `is_stranger` says how much they are told
ADMIN_PATHS = "/admin/"  # what begins so has a key of its own, which the route asks for

_STRANGER = "gateway.stranger"
_KEY = re.compile(r"[!-~]+")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_COMMENT = re.compile(r"(?m)^\s*#.*$")


def parse_keys(
    lines: Iterable[str], line: str, admin_key: str | None = None
) -> tuple[dict[bytes, str], list[str]]:
    """The keys that can be used, and what is wrong with the others, without a part of any key.

    Each line is ``name:key``, or ``key``, whose name is its place among all, e.g. ``key-1``; or
    empty. Several keys may have one name. ``admin_key`` must not be among them.

    Returns:
        The names, by the SHA-256 of the keys; and sentences, which call a line ``line``.
    """
    names: dict[bytes, str] = {}
    problems: list[str] = []
    entries = [(n, text.strip()) for n, text in enumerate(lines, 1) if text.strip()]
    for place, (number, entry) in enumerate(entries, 1):
        name, colon, key = entry.partition(":")
        if not colon:
            name, key = f"key-{place}", entry
        if problem := key_problem(name, key, admin_key):
            problems.append(f"{line} {number}: {problem}")
        elif (digest := _digest(key.encode())) in names:
            problems.append(f"{line} {number}: this key is there already, as {names[digest]}")
        else:
            names[digest] = name
    return names, problems if entries else ["there is no key"]


def key_problem(name: str, key: str, admin_key: str | None = None) -> str | None:
    """What is wrong with a key and its name; None if they can be used."""
    if not _NAME.fullmatch(name):
        return "the name before the colon must be 1 to 64 letters, digits and . _ @ -"
    if not _KEY.fullmatch(key):
        return "a key must be of visible ASCII characters, without spaces"
    if len(key) < MIN_KEY_LENGTH:
        return f"a key must have at least {MIN_KEY_LENGTH} characters"
    if key == admin_key:
        return "ADMIN_KEY must not be one of API_KEYS: it opens more than those"
    return None


class ApiKeys:
    """The keys that the setting ``API_KEYS`` lists, or that a file holds, one to a line.

    Only what the file holds at present is valid: nothing while it is gone, unreadable or empty, and
    its right lines while others are wrong. The log says so. Only hashes of keys are kept.
    """

    def __init__(self, setting: str, admin_key: str | None = None) -> None:
        """Read ``key`` or ``name:key``, with commas between, or ``@`` and the path of a file.

        Raises:
            UsageError: one of the keys cannot be used, or there is none.
        """
        self._admin_key = admin_key
        self._signature: tuple[int, ...] | None = None  # of the file as it was read
        self._path: Path | None = None
        if setting.startswith("@"):
            self._path = Path(setting[1:]).expanduser()
            self._read(self._path)
        else:
            self._names, self._problems = parse_keys(setting.split(","), "key", admin_key)
        if self._problems:
            source = f"=@{self._path}" if self._path else ""
            raise UsageError(f"API_KEYS{source}: {self._problems[0]}")

    def name_of(self, candidates: Sequence[bytes]) -> str | None:
        """The name of the first of ``candidates`` that is a key now; None if none is."""
        if self._path is not None:
            self._read_again(self._path)
        found: str | None = None
        for candidate in reversed(candidates):
            digest = _digest(candidate)
            for key, name in self._names.items():
                # Neither the comparison nor the loop ends early: the time does not tell which fits.
                if hmac.compare_digest(key, digest):
                    found = name
        return found

    def _read_again(self, path: Path) -> None:
        before = self._problems
        is_new = self._read(path)
        problems, n_keys = "; ".join(self._problems[:5]), len(self._names)
        if problems and self._problems != before:
            logger.error("%s: %s; valid API keys: %d", path, problems, n_keys)
        elif is_new and not problems:
            logger.info("%d API keys read from %s", n_keys, path)

    def _read(self, path: Path) -> bool:
        """Read the file, unless it is the one that was read last."""
        try:
            facts = path.stat()
            signature = (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino)
            if signature == self._signature:
                return False
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("this is not a regular file")
            lines = _COMMENT.sub("", _text(path)).splitlines()
            self._names, self._problems = parse_keys(lines, "line", self._admin_key)
            self._signature = signature
        except (OSError, ValueError) as error:
            self._signature = None  # it may become readable without a change
            self._names, self._problems = {}, [reason_of(error)]
        return True


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"a file of keys may have {MAX_FILE_BYTES} bytes")
    return content.decode("utf-8-sig", "replace")  # a line that is not UTF-8 holds no key


class KeyGuard:
    """Middleware that asks each request for an API key; the record gets the name of the key."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            candidates = presented_keys(scope)
            name = self._keys.name_of(candidates)
            record_of(scope).key_name = name
            scope[_STRANGER] = name is None
            if name is None and not _is_open(scope):
                raise ApiError(
                    ErrorCode.INVALID_API_KEY,
                    "The API key is not one of this server's."
                    if candidates
                    else "This server asks for an API key: send the header"
                    " 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                    headers={"www-authenticate": "Bearer"},
                )
        await self._app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    return scope["method"] == "OPTIONS" or path in OPEN_PATHS or path.startswith(ADMIN_PATHS)


def is_stranger(scope: Scope) -> bool:
    """Whether a request came without a key to a server that has some."""
    return bool(scope.get(_STRANGER, False))


def presented_keys(scope: Scope) -> list[bytes]:
    """The keys that a request brought: ``Authorization: Bearer KEY`` first, then ``x-api-key``."""
    bearer: list[bytes] = []
    plain: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                bearer.append(key.strip())
        elif name == b"x-api-key":
            plain.append(value.strip())
    # A client sends each header once; what repeats them only wants to be compared often.
    return bearer[:1] + plain[:1]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
