"""``ggml-fastapi convert``: a Hugging Face model folder becomes one file for the engine."""

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from shared.errors import UsageError

_PACKAGES = ("gguf", "safetensors", "tqdm")
_TYPES = ("f32", "f16", "q8_0", "q4_0")
_FORMATS = ("auto", "ggml", "ggcc", "gguf")


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status: 0, 2 for a mistake, 130 for Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _convert(options)
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ggml-fastapi convert", description=__doc__)
    parser.add_argument(
        "source", type=Path, metavar="HF_DIR",
        help="a folder with config.json, *.safetensors and tokenizer.json",
    )  # fmt: skip
    parser.add_argument(
        "target", type=Path, metavar="OUT", help="the file to write: NAME.bin, or NAME.gguf"
    )
    parser.add_argument(
        "--type", choices=_TYPES, default="f16", help="type of the weights (default: f16)"
    )
    parser.add_argument(
        "--format", choices=_FORMATS, default="auto",
        help="layout of the file (default: the one that suits the family and the name)",
    )  # fmt: skip
    parser.add_argument(
        "--context-length", type=int, metavar="TOKENS",
        help="shorter than the model's own (not in the ggcc layout, which has none)",
    )  # fmt: skip
    return parser


def _convert(options: argparse.Namespace) -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f'{", ".join(missing)}: not installed; pip install "ggml-fastapi[convert]"'
        )
    if options.context_length is not None and options.context_length < 1:
        raise UsageError(f"--context-length: {options.context_length} is no positive number")
    from worker.convert.conversion import convert
    from worker.convert.layout import Format
    from worker.convert.tensors import WeightType

    layout = convert(
        options.source,
        options.target,
        WeightType[options.type.upper()],
        None if options.format == "auto" else Format(options.format),
        options.context_length,
    )
    for note in layout.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.target}: {layout.n_bytes:,} bytes, {layout.family}, {options.type}")
