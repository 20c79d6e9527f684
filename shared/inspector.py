"""Finds out what a model file is, and checks it to the last byte before the engine sees it.

Only the header, the vocabulary and the table of tensors are read, whatever the file's length.
"""

from pathlib import Path

from shared.binary_reader import BinaryReader, Data, mapped
from shared.errors import ModelFileError
from shared.gguf_model import describe_gguf
from shared.gguf_reader import read_gguf
from shared.legacy_model import describe_ggcc, describe_legacy
from shared.model_file import Family, FileFormat, ModelFile
from shared.model_names import family_named

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
_SAFETENSORS = "a safetensors file; 'ggml-fastapi convert' makes a model file of it"


def inspect(path: Path | str, model_type: str | None = None) -> ModelFile:
    """Read and check a model file.

    Args:
        path: the file.
        model_type: what it is expected to be, one of `shared.model_names.MODEL_TYPES`; decides
            between StarCoder and GPT-2, whose files look the same.

    Returns:
        Its description.

    Raises:
        ModelFileError: it cannot be read, is damaged, is no model that the engine can serve, or
            not the one that was expected; the text says what is wrong.
        UsageError: ``model_type`` is not known.
    """
    wanted = None if model_type is None else family_named(model_type)
    path = Path(path)
    with mapped(path) as data:
        model = _described(path, data, wanted)
    if model_type is not None:
        _check_expected(model, model_type, wanted)
    return model


def _described(path: Path, data: Data, wanted: Family | None) -> ModelFile:
    reader = BinaryReader(path, data)
    if reader.size < 4:
        reader.fail(f"not a model file: it has only {reader.size} bytes")
    magic = reader.raw(4)
    if magic == _GGUF:
        return describe_gguf(read_gguf(path))
    if magic == _GGCC:
        return describe_ggcc(path, data)
    if magic == _GGML:
        return describe_legacy(path, data, wanted)
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
            f"{model.path}: MODEL_TYPE={model_type!r:.40}, but it is a {model.family.value} model "
            f"in a {model.file_format.value} file; leave MODEL_TYPE away, or set it to "
            f"{model.family.value}"
        )
