"""The small models of this folder, and what the transformers library makes of them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Reference:
    """What a model computes."""

    name: str
    family: str  #: its ``model_type`` in Hugging Face's configuration
    prompt: str
    prompt_ids: list[int]
    greedy_ids: list[int]  #: the likeliest continuation
    greedy_text: str
    #: per number of greedy tokens that follow the prompt, the logits of the next one
    logits: dict[int, list[float]]

    @property
    def paths(self) -> list[Path]:
        """The model's files in the layouts that the engine reads."""
        return sorted(path for path in FOLDER.iterdir() if path.stem == self.name)


@dataclass(frozen=True)
class TokenizedText:
    """A text and the ids that a family's tokenizer makes of it, special tokens included."""

    text: str
    ids: list[int]


@cache
def references() -> dict[str, Reference]:
    """Every variant by its name."""
    return {
        name: Reference(
            name=name,
            family=found["family"],
            prompt=found["prompt"],
            prompt_ids=found["prompt_ids"],
            greedy_ids=found["greedy_ids"],
            greedy_text=found["greedy_text"],
            logits={int(at): row for at, row in found["logits"].items()},
        )
        for name, found in _read()["models"].items()
    }


@cache
def tokenized_texts(family: str) -> list[TokenizedText]:
    """Texts of many kinds, for a family's ``model_type``."""
    return [TokenizedText(**found) for found in _read()["texts"][family]]


@cache
def _read() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "references.json").read_text("utf-8"))
    return content
