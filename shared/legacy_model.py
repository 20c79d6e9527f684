"""Describes legacy GGML files, and Falcon's ggcc files, as models."""

from collections.abc import Sequence
from pathlib import Path

from shared.binary_reader import Data
from shared.default_ids import BPE_EOS, END_OF_TEXT
from shared.engine_memory import BATCH, Dimensions, needs
from shared.errors import ModelFileError
from shared.ggcc_reader import N_CTX_TRAIN, VERSION, read_ggcc
from shared.ggml_types import TENSOR_TYPES
from shared.gguf import TensorInfo, dominant_type
from shared.legacy_reader import LegacyFile, read_legacy
from shared.model_file import Family, FileFormat, MemoryNeeds, ModelFile, TokenizerKind

_FILL_IN_TOKENS = (b"<fim_prefix>", b"<fim-prefix>")


def describe_legacy(path: Path, data: Data, wanted: Family | None = None) -> ModelFile:
    """Read, check and describe a file in one of the layouts of ggml's examples.

    Args:
        path: the file.
        data: its bytes.
        wanted: the family that it is expected to be of.

    Raises:
        ModelFileError: it is damaged, or the engine could not serve it.
    """
    file = read_legacy(path, data)
    family = _family(file, wanted)
    n_embd, n_head = file.n_embd, file.n_head
    weights = sum(tensor.n_bytes for tensor in file.tensors)
    if file.served.family is Family.STARCODER and not _has(file.tensors, "model/lm_head"):
        # The engine makes a copy of the embedding.
        weights += next(one.n_bytes for one in file.tensors if one.name == "model/wte")
    n_vocab, n_layer = len(file.tokens), file.n_layer
    size = Dimensions(n_vocab, file.n_ctx, n_embd, n_head, n_head, n_layer, 4 * n_embd)
    memory, n_ctx_most = needs(FileFormat.GGML, family, size, weights, file.weight_type)
    details: dict[str, float] = dict(file.floats)
    details |= {name: file.header[name] for name in ("n_rot", "par_res") if name in file.header}
    return _model(
        path=path,
        n_bytes=len(data),
        file_format=FileFormat.GGML,
        version=0,
        family=family,
        quantisation=file.quantisation,
        size=size,
        details=details,
        tokens=file.tokens,
        merges=None,
        end=_id_of(file.tokens, END_OF_TEXT),
        tensors=file.tensors,
        n_ctx_most=n_ctx_most,
        memory=memory,
    )


def describe_ggcc(path: Path, data: Data) -> ModelFile:
    """Read, check and describe a Falcon model in a ``ggcc`` file.

    Raises:
        ModelFileError: it is damaged, or the engine could not serve it.
    """
    file = read_ggcc(path, data)
    header = file.header
    weight_type = dominant_type(file.tensors)
    size = Dimensions(
        header.n_vocab,
        N_CTX_TRAIN,
        header.n_embd,
        header.n_head,
        header.n_head_kv,
        header.n_layer,
        4 * header.n_embd,
    )
    memory, n_ctx_most = needs(
        FileFormat.GGCC,
        Family.FALCON,
        size,
        sum(tensor.n_bytes for tensor in file.tensors),
        weight_type,
        header.is_40b,
    )
    if n_ctx_most < BATCH:
        raise ModelFileError.about(path, "it is too wide for the engine's evaluation buffers")
    return _model(
        path=path,
        n_bytes=len(data),
        file_format=FileFormat.GGCC,
        version=VERSION,
        family=Family.FALCON,
        quantisation=TENSOR_TYPES[weight_type][0],
        size=size,
        details={"falcon_type": 40 if header.is_40b else 7},
        tokens=file.tokens,
        merges=file.merges,
        end=BPE_EOS if file.tokens[BPE_EOS] == END_OF_TEXT else None,
        tensors=file.tensors,
        n_ctx_most=n_ctx_most,
        memory=memory,
    )


def _model(
    *,
    path: Path,
    n_bytes: int,
    file_format: FileFormat,
    version: int,
    family: Family,
    quantisation: str,
    size: Dimensions,
    details: dict[str, float],
    tokens: list[bytes],
    merges: list[bytes] | None,
    end: int | None,
    tensors: tuple[TensorInfo, ...],
    n_ctx_most: int,
    memory: MemoryNeeds,
) -> ModelFile:
    """What all these files have in common: byte-level BPE, and nothing said about its use."""
    return ModelFile(
        path=path,
        file_format=file_format,
        version=version,
        family=family,
        name=path.stem,
        quantisation=quantisation,
        n_vocab=size.n_vocab,
        n_ctx_train=size.n_ctx,
        n_embd=size.n_embd,
        n_head=size.n_head,
        n_head_kv=size.n_head_kv,
        n_layer=size.n_layer,
        n_ff=size.n_ff,
        details=details,
        tokenizer=TokenizerKind.BPE,
        tokens=tokens,
        token_types=None,
        merges=merges,
        pre_tokenizer=None,
        bos=end,
        eos=end,
        add_bos=None,
        chat_template=None,
        tensors=tensors,
        n_bytes=n_bytes,
        needs_rewrite=False,
        n_ctx_most=n_ctx_most,
        memory=memory,
    )


def _family(file: LegacyFile, wanted: Family | None) -> Family:
    """Tell StarCoder from GPT-2: their files, and what the engine computes, are the same.

    Their tokenizers differ. StarCoder has fill-in-the-middle tokens and splits numbers into digits;
    GPT-2 has numbers of several digits and ends in ``<|endoftext|>``.
    """
    family = file.served.family
    if family is not Family.STARCODER:
        return family
    if wanted in (Family.STARCODER, Family.GPT2):
        return wanted
    tokens = file.tokens
    if any(token in _FILL_IN_TOKENS for token in tokens):
        return Family.STARCODER
    if any(len(token) > 1 and token.isdigit() for token in tokens) or tokens[-1] == END_OF_TEXT:
        return Family.GPT2
    return Family.STARCODER


def _has(tensors: Sequence[TensorInfo], name: str) -> bool:
    return any(tensor.name == name for tensor in tensors)


def _id_of(tokens: Sequence[bytes], text: bytes) -> int | None:
    return tokens.index(text) if text in tokens else None
