"""The ``config.json`` of a model folder, read with suspicion."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from shared.errors import UsageError

GELU = frozenset({"gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"})
"""Activations that the engine's tanh approximation stands for."""

_MOST = 2**31 - 1
"""Files hold counts as signed 32-bit integers."""


class Config:
    """Settings by their names; a JSON null counts as missing.

    Attributes:
        path: the file, for messages.
        values: every setting.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        """Wrap settings that have been read already."""
        self.path = path
        self.values = values

    @classmethod
    def read(cls, path: Path) -> "Config":
        """Read a file with one JSON object.

        Raises:
            UsageError: it is missing, or no JSON object.
        """
        return cls(path, read_json_object(path))

    def section(self, key: str) -> "Config":
        """The settings under ``key``; none where it is missing."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            self.fail(f"{key} is {value!r:.60}, not a JSON object")
        return Config(self.path, value)

    def get(self, key: str, default: Any = None) -> Any:
        """A setting of any type."""
        value = self.values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            found = "missing" if value is None else f"{value!r:.60}"
            self.fail(f"{key} should be a positive integer: {found}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            self.fail(f"{key} should be a number: {value!r:.60}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.fail(f"{key} should be true or false: {value!r:.60}")
        return value

    def require(self, key: str, allowed: Collection[Any], default: Any, why: str) -> None:
        """Check that a setting has one of the values that the engine's code stands for.

        Raises:
            UsageError: it has another; the message ends in ``why``.
        """
        value = self.get(key, default)
        if not any(value == other and type(value) is type(other) for other in allowed):
            self.fail(f"{key} is {value!r:.60}; {why}")

    def require_number(self, key: str, wanted: float, default: float, why: str) -> None:
        """The same for a number, whether the file writes it with or without a point."""
        value = self.number(key, default)
        if not math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-12):
            self.fail(f"{key} is {value:g}; {why}")

    def fail(self, problem: str) -> NoReturn:
        """Say what is wrong.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.path}: {problem}")


def rotary(config: Config, legacy_theta: str = "rope_theta") -> tuple[float, float | None]:
    """Return base and rotated part (None: not said here) of rotary position embeddings.

    Current configurations hold them under ``rope_parameters``, older ones at the top.

    Raises:
        UsageError: the embeddings are scaled, which the engine has not.
    """
    parameters = config.section("rope_parameters")
    scaling = config.section("rope_scaling")
    for section in (parameters, scaling):
        kind = section.get("rope_type", section.get("type", "default"))
        if kind != "default":
            config.fail(f"it needs {kind!r:.40} scaling of positions, which the engine has not")
    theta = parameters.number("rope_theta", config.number(legacy_theta, 10000.0))
    part = parameters.get("partial_rotary_factor")
    return theta, None if part is None else parameters.number("partial_rotary_factor", 1.0)


def whole_rotary(config: Config) -> float:
    """Return the base of rotary position embeddings that take up all of each head.

    Raises:
        UsageError: they take up a part of it, or are scaled, which the engine has not.
    """
    theta, part = rotary(config)
    if part is None:
        part = config.number("partial_rotary_factor", 1.0)
    if part != 1:
        config.fail(
            f"partial_rotary_factor is {part:g}; the engine rotates whole heads in this family"
        )
    return theta


def head_width(config: Config, n_embd: int, n_head: int) -> int:
    """Return the width of an attention head.

    Raises:
        UsageError: the heads do not divide the width of the model.
    """
    if n_embd % n_head:
        config.fail(f"{n_head} attention heads do not divide a width of {n_embd}")
    return n_embd // n_head


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{path}: is not a JSON object")
    return value
