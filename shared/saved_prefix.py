"""Where the prefix cache has a state of a KV cache."""

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
