"""What the gateway and its workers say of the prefix cache."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of the prefix cache, the memory that the gateway shares out among the workers."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SavedPrefix:
    """A state of a KV cache that begins with tokens of a prompt."""

    region: Region
    #: how many tokens of the prompt it begins with
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Save:
    """Copy the state of a slot's KV cache to the prefix cache; its last generation has ended."""

    slot: int
    region: Region


@dataclass(frozen=True, slots=True)
class Saved:
    """Answers `Save`."""

    region: Region
    #: False if the slot had something else by then; the region's bytes mean nothing
    is_whole: bool
