"""``ggml-fastapi inspect FILE``: what a model file is, and whether it can be served here."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway import machine, memory_plan
from shared.errors import ModelFileError, UsageError
from shared.model.description import ModelFile
from shared.model.inspect import inspect

_ENGINE = "ctransformers 0.2.27"

Row = tuple[str, str]


def main(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        0 if the file can be served, 1 if not, 2 if the command line is wrong.
    """
    parser = argparse.ArgumentParser(prog="ggml-fastapi inspect", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a model file")
    parser.add_argument("--tensors", action="store_true", help="list all tensors, too")
    parser.add_argument("--model-type", metavar="TYPE", help="what the file is expected to be")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    try:
        model = inspect(options.file, options.model_type)
    except ModelFileError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        print("servable: no")
        return 1
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    memory = machine.available_memory()
    n_ctx = memory_plan.default_n_ctx(model, memory)
    _print([*_description(model), *_memory(model, n_ctx)])
    if options.tensors:
        print()
        _print(_tensors(model))
    fitting = memory_plan.fitting_workers(model, n_ctx, memory)
    if fitting < 1:
        needed = model.memory.weights + memory_plan.worker_bytes(model, n_ctx)
        print(
            f"\nservable: no, it needs {_size(needed)} of memory with a context of {n_ctx:,} "
            f"tokens, and {_size(memory or 0)} are free"
        )
        return 1
    print(f"\nservable: yes, {_how(model, n_ctx, fitting)}")
    return 0


def _print(rows: Sequence[Row]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        # Names in files may hold anything, also what moves a terminal's cursor.
        shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in value)
        print(f"{name:<{width}}  {shown}")


def _description(model: ModelFile) -> Iterator[Row]:
    version = f" version {model.version}" if model.version else ""
    yield "file", f"{model.path} ({_size(model.n_bytes)})"
    yield "name", model.name
    yield "family", model.family.value
    yield "format", f"{model.file_format.value}{version}"
    yield "quantisation", model.quantisation
    yield "layers", f"{model.size.n_layer}"
    yield "width", f"{model.size.n_embd:,}, feed-forward {model.size.n_ff:,}"
    yield "heads", f"{model.size.n_head}, of keys and values {model.size.n_head_kv}"
    for name, value in model.details.items():
        yield name.replace("_", " ").replace(".", " "), f"{value:g}"
    yield "vocabulary", f"{model.n_vocab:,} tokens, {model.tokenizer.value}"
    yield "begin of text", _token(model, model.bos) + _added(model)
    yield "end of text", _token(model, model.eos)
    if model.merges is not None:
        yield "merges", f"{len(model.merges):,}"
    else:
        yield "merges", "none in the file"
    yield "pre-tokenizer", model.pre_tokenizer or "not named"
    yield "chat template", "yes" if model.chat_template else "no"
    longest = ""
    if model.n_ctx_most < model.n_ctx_train:
        longest = f"; the engine's buffers hold {model.n_ctx_most:,}"
    yield "context", f"{model.n_ctx_train:,} tokens{longest}"


def _added(model: ModelFile) -> str:
    if model.bos is None or model.add_bos is None:
        return ""
    return ", added to prompts" if model.add_bos else ", not added to prompts"


def _token(model: ModelFile, token: int | None) -> str:
    if token is None:
        return "none"
    return f"{token} {model.tokens[token].decode('utf-8', 'replace')}"


def _memory(model: ModelFile, n_ctx: int) -> Iterator[Row]:
    needs = model.memory
    yield "weights", f"{_size(needs.weights)}, shared by all workers"
    yield "KV cache", f"{_size(1024 * needs.kv_per_token)} for 1,024 tokens"
    scratch = memory_plan.scratch_bytes(model, n_ctx)
    yield "scratch", f"{_size(scratch)} at {n_ctx:,} tokens"


def _tensors(model: ModelFile) -> list[Row]:
    return [
        (one.name, f"{one.type_name:6} {' x '.join(map(str, one.shape))}") for one in model.tensors
    ] or [("no tensors", "")]


def _how(model: ModelFile, n_ctx: int, fitting: int) -> str:
    cores = machine.usable_cores()
    first = "after it has been rewritten once (by itself), " if model.needs_rewrite else ""
    workers = "1 worker" if min(fitting, cores) == 1 else f"{min(fitting, cores)} workers"
    return (
        f"{first}by {_ENGINE} as {model.library_type!r}, with {workers} on "
        f"{cores} {'core' if cores == 1 else 'cores'} (memory for {fitting:,}) at {n_ctx:,} tokens "
        "each"
    )


def _size(n_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024 or unit == "MiB":
            break
        n_bytes //= 1024
    return f"{n_bytes:,} {unit}"
