"""Metadata that GGUF files of every family have; keys are those of the GGUF specification."""

from shared.model.gguf import BYTE_FORM, MERGES, SCORES, TOKEN_FORM, TOKEN_TYPES, TOKENS
from worker.convert.gguf_writer import Value
from worker.convert.layout import Request
from worker.convert.source import ModelFolder
from worker.convert.special_tokens import SpecialTokens
from worker.convert.vocabulary import Vocabulary

_QUANTISATION_VERSION = 2


def general(folder: ModelFolder, architecture: str, request: Request) -> dict[str, Value]:
    """What the file is."""
    metadata: dict[str, Value] = {
        "general.architecture": architecture,
        "general.name": folder.name,
        "general.file_type": request.weight_type.file_type,
    }
    if request.weight_type.is_quantised:
        metadata["general.quantization_version"] = _QUANTISATION_VERSION
    return metadata


def byte_level(vocabulary: Vocabulary, pre: str) -> dict[str, Value]:
    """A byte-level BPE vocabulary as ctransformers reads it: raw bytes, and a score for each."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        **_tokens(vocabulary),
        MERGES: [f"{left} {right}".encode() for left, right in vocabulary.merges],
        TOKEN_FORM: BYTE_FORM,
    }


def sentencepiece(vocabulary: Vocabulary) -> dict[str, Value]:
    """A SentencePiece vocabulary: pieces as the model has them, with their scores."""
    return {"tokenizer.ggml.model": "llama", **_tokens(vocabulary)}


def special(tokens: SpecialTokens) -> dict[str, Value]:
    """Tokens with a role, and the chat template."""
    found: dict[str, Value | None] = {
        "tokenizer.ggml.bos_token_id": tokens.bos,
        "tokenizer.ggml.eos_token_id": tokens.eos,
        "tokenizer.ggml.add_bos_token": tokens.add_bos,
        "tokenizer.chat_template": tokens.chat_template,
    }
    return {key: value for key, value in found.items() if value is not None}


def _tokens(vocabulary: Vocabulary) -> dict[str, Value]:
    return {
        TOKENS: list(vocabulary.tokens),
        SCORES: list(vocabulary.scores),
        TOKEN_TYPES: [int(kind) for kind in vocabulary.types],
    }
