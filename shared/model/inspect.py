"""Finds out what a model file is, and checks it to the last byte before an engine sees it.

Only the header, the vocabulary and the table of tensors are read, whatever the file's length.
"""

from pathlib import Path
from typing import Any

from shared.errors import ModelFileError
from shared.model.description import (
    BPE_EOS,
    END_OF_TEXT,
    SENTENCEPIECE_BOS,
    SENTENCEPIECE_EOS,
    Family,
    FileFormat,
    ModelFile,
    TokenizerKind,
    family_named,
)
from shared.model.ggcc import read_ggcc
from shared.model.gguf import CHAT_TEMPLATE, MERGES, TOKEN_TYPES, TOKENS, GGUFFile
from shared.model.gguf_check import architecture_of, check_gguf, is_40b
from shared.model.gguf_rewrite import needs_rewrite, rewritten
from shared.model.legacy import read_legacy
from shared.model.llamacpp import describe_for_llamacpp
from shared.model.memory import needs
from shared.model.reader import BinaryReader, Data, mapped
from shared.model.split import read_whole
from shared.model.tensors import dominant_type

_GGUF = b"GGUF"
_GGML = b"lmgg"
_GGCC = b"ccgg"
_OLD_FORMATS = {b"fmgg": "ggmf", b"tjgg": "ggjt"}
_OTHERS = {
    b"algg": "a LoRA adapter, which is no model by itself",
    b"FUGG": "a GGUF file of a big-endian machine",
    b"PK\x03\x04": "a zip archive, perhaps a PyTorch checkpoint",
    b"vers": "a Git LFS pointer, which stands for the file itself; download the file",
    b"<!DO": "a web page",
    b"<htm": "a web page",
}
_SAFETENSORS = "a safetensors file; llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it"


def inspect(
    path: Path | str, model_type: str | None = None, engine: str = "ctransformers"
) -> ModelFile:
    """Read and check a model file.

    Args:
        path: the file.
        model_type: what it is expected to be, one of `MODEL_TYPES`; decides between StarCoder and
            GPT-2, whose files look the same.
        engine: ``ctransformers``, ``llamacpp``, or ``auto``: llama.cpp for the GGUF files that it
            reads, ctransformers for all others.

    Raises:
        ModelFileError: it cannot be read, is damaged, is no model that the engine can serve, or
            not the one that was expected; the text says what is wrong.
        UsageError: ``model_type`` is not known.
    """
    wanted = None if model_type is None else family_named(model_type)
    path = Path(path)
    with mapped(path) as data:
        model = _described(path, data, wanted, engine)
    if model_type is not None:
        _check_expected(model, model_type, wanted)
    return model


def _described(path: Path, data: Data, wanted: Family | None, engine: str) -> ModelFile:
    reader = BinaryReader(path, data)
    if reader.size < 4:
        reader.fail(f"not a model file: it has only {reader.size} bytes")
    magic = reader.raw(4)
    if magic == _GGUF:
        return _describe_gguf_for(engine, read_whole(path))
    if engine == "llamacpp" and magic in (_GGCC, _GGML):
        reader.fail("llama.cpp reads GGUF files only; ENGINE=auto serves this one")
    if magic == _GGCC:
        return read_ggcc(path, data)
    if magic == _GGML:
        return read_legacy(path, data, wanted)
    if magic in _OLD_FORMATS:
        reader.fail(
            f"a model in the old {_OLD_FORMATS[magic]} format (LLaMA, or Falcon before ggcc), "
            "which is not supported; take a GGUF, or for Falcon a ggcc, file of that model"
        )
    known = _OTHERS.get(magic)
    if known is None and data[8:10] == b'{"':
        known = _SAFETENSORS
    looks = f"it looks like {known}" if known else f"it begins with {magic!r}"
    reader.fail(f"not a model file: {looks}; GGUF, ggcc and GGML files are")


def _check_expected(model: ModelFile, model_type: str, wanted: Family | None) -> None:
    fits = model.file_format is FileFormat.GGUF if wanted is None else model.family is wanted
    if not fits:
        raise ModelFileError(
            f"{model.path}: MODEL_TYPE={model_type!r:.40}, but it is a {model.family_name} model "
            f"in a {model.file_format.value} file; leave MODEL_TYPE away, or set it to "
            f"{'gguf' if model.family is None else model.family_name}"
        )


def _describe_gguf_for(engine: str, file: GGUFFile) -> ModelFile:
    if engine == "auto":
        engine = "ctransformers" if file.version == 1 or file.is_byte_form else "llamacpp"
    return describe_gguf(file) if engine == "ctransformers" else describe_for_llamacpp(file)


def describe_gguf(file: GGUFFile) -> ModelFile:
    """Check a file, in the form that the engine will get it in, and describe it.

    Raises:
        ModelFileError: the engine could not serve it.
    """
    if file.n_parts > 1:
        file.fail(
            f"it is split into {file.n_parts} files, which ctransformers does not read;"
            " ENGINE=auto serves it"
        )
    architecture = architecture_of(file)
    rewrite = needs_rewrite(file)
    # What the engine will see; the file itself where nothing has to be rewritten.
    final = rewritten(file) if rewrite else file
    check_gguf(final)
    bpe = file.tokenizer_model == "gpt2"
    bos, eos = _special_ids(final, bpe)
    size, family = final.size, architecture.family
    weight_type = dominant_type(final.tensors)
    memory, n_ctx_most = needs(
        FileFormat.GGUF, family, size, final.weight_bytes, weight_type, is_40b(final)
    )
    add_bos = file.metadata.get("tokenizer.ggml.add_bos_token")
    return ModelFile(
        path=file.path,
        n_bytes=file.n_bytes,
        file_format=FileFormat.GGUF,
        version=file.version,
        family=family,
        name=file.name,
        quantisation=file.quantisation,
        size=size,
        details=_details(final, architecture.epsilon),
        tokenizer=TokenizerKind.BPE if bpe else TokenizerKind.SENTENCEPIECE,
        tokens=final.metadata[TOKENS],
        token_types=final.metadata[TOKEN_TYPES],
        merges=final.metadata[MERGES] if bpe else None,
        pre_tokenizer=file.text("tokenizer.ggml.pre"),
        bos=bos,
        eos=eos,
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=file.text(CHAT_TEMPLATE),
        named_templates=file.named_templates,
        tensors=file.tensors,
        needs_rewrite=rewrite,
        n_ctx_most=n_ctx_most,
        memory=memory,
    )


def _special_ids(file: GGUFFile, bpe: bool) -> tuple[int | None, int | None]:
    bos: Any = file.metadata.get("tokenizer.ggml.bos_token_id")
    eos: Any = file.metadata.get("tokenizer.ggml.eos_token_id")
    if not bpe:
        return (
            SENTENCEPIECE_BOS if bos is None else bos,
            SENTENCEPIECE_EOS if eos is None else eos,
        )
    if eos is None and file.metadata[TOKENS][BPE_EOS] == END_OF_TEXT:
        eos = BPE_EOS
    return bos, eos


def _details(file: GGUFFile, epsilon: str) -> dict[str, float]:
    values = {
        name: file.metadata.get(f"{file.architecture}.{name}")
        for name in ("rope.freq_base", "rope.scale_linear", epsilon)
    }
    return {name: value for name, value in values.items() if value is not None}
