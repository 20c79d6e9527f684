"""``ggml-fastapi inspect FILE``: what a model file is, and whether it can be served here."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway import machine
from gateway.fitting import (
    default_n_ctx,
    fitting_workers,
    scratch_bytes,
    why_n_ctx,
    worker_bytes,
)
from shared.errors import ModelFileError, UsageError
from shared.model.description import ModelFile, Pooling
from shared.model.inspect import inspect

_ENGINES = {"ctransformers": "ctransformers 0.2.27", "llamacpp": "llama.cpp (xllamacpp)"}

Row = tuple[str, str]


def main(arguments: Sequence[str]) -> int:
    """Return 0 if the file can be served, 1 if not, 2 if the command line is wrong."""
    parser = argparse.ArgumentParser(prog="ggml-fastapi inspect", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="a model file")
    parser.add_argument("--tensors", action="store_true", help="list all tensors, too")
    parser.add_argument("--model-type", metavar="TYPE", help="what the file is expected to be")
    parser.add_argument(
        "--engine", choices=("auto", "llamacpp", "ctransformers"), default="auto",
        help="what is to serve it (default: auto)",
    )  # fmt: skip
    try:
        options = parser.parse_args(arguments)
        model = inspect(options.file, options.model_type, options.engine)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        if not isinstance(error, ModelFileError):
            return 2
        print("servable: no")
        return 1
    memory = machine.available_memory()
    n_ctx = default_n_ctx(model, memory)
    _print([*_description(model), *_memory(model, n_ctx)])
    if options.tensors:
        print()
        _print([(one.name, f"{one.type_name:6} {' x '.join(map(str, one.shape))}")
                for one in model.tensors])  # fmt: skip
    fitting = fitting_workers(model, n_ctx, memory)
    if fitting == 0:
        needed = model.memory.weights + worker_bytes(model, n_ctx)
        print(
            f"\nservable: no, it needs {_size(needed)} of memory with a context of {n_ctx:,} "
            f"tokens, and {_size(memory or 0)} are free"
        )
        return 1
    print(f"\nservable: yes, {_how(model, n_ctx, fitting)}")
    return 0


def _print(rows: Sequence[Row]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        # Names in files may hold anything, also what moves a terminal's cursor.
        shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in value)
        print(f"{name:<{width}}  {shown}")


def _description(model: ModelFile) -> Iterator[Row]:
    version = f" version {model.version}" if model.version else ""
    parts = f" in {model.n_parts} files" if model.n_parts > 1 else ""
    yield "file", f"{model.path} ({_size(model.n_bytes)}{parts})"
    yield "name", model.name
    yield "family", model.family_name
    yield "format", f"{model.file_format.value}{version}"
    yield "quantisation", model.quantisation
    yield "layers", f"{model.size.n_layer}"
    yield "width", f"{model.size.n_embd:,}, feed-forward {model.size.n_ff:,}"
    if model.size.n_head:
        yield "heads", f"{model.size.n_head}, of keys and values {model.size.n_head_kv}"
    if model.memory.state:
        yield "attention", "hybrid" if model.memory.kv_per_token else "none: recurrent"
    for name, value in model.details.items():
        yield name.replace("_", " ").replace(".", " "), f"{value:g}"
    yield "vocabulary", f"{model.n_vocab:,} tokens, {model.tokenizer.value}"
    added = {None: "", True: ", added to prompts", False: ", not added to prompts"}
    bos = added[None if model.bos is None else model.add_bos]
    yield "begin of text", _token(model, model.bos) + bos
    yield "end of text", _token(model, model.eos)
    yield "merges", "none in the file" if model.merges is None else f"{len(model.merges):,}"
    yield "pre-tokenizer", model.pre_tokenizer or "not named"
    named = f", and for {', '.join(model.named_templates)}" if model.named_templates else ""
    yield "chat template", ("yes" if model.chat_template else "no") + named
    if model.pooling is not Pooling.NONE:
        yield "pooling", f"{model.pooling.name.lower()}; it gives embeddings, and writes no text"
    is_cut = model.n_ctx_most < model.n_ctx_train
    longest = f"; the engine's buffers hold {model.n_ctx_most:,}" if is_cut else ""
    yield "context", f"{model.n_ctx_train:,} tokens{longest}"


def _token(model: ModelFile, token: int | None) -> str:
    return "none" if token is None else f"{token} {model.tokens[token].decode('utf-8', 'replace')}"


def _memory(model: ModelFile, n_ctx: int) -> Iterator[Row]:
    yield "weights", f"{_size(model.memory.weights)}, shared by all workers"
    memory = model.memory
    yield "KV cache", f"{_size(1024 * memory.kv_per_token)} for 1,024 tokens"
    if memory.window:
        window = _size(memory.window * memory.kv_per_window_token)
        yield "windows", f"{window} for {memory.window:,} tokens of each slot, in the other layers"
    if memory.per_slot:
        state = f", its state {_size(memory.state)}" if memory.state else ""
        yield "each slot", _size(memory.per_slot) + state
    yield "scratch", f"{_size(scratch_bytes(model, n_ctx))} at {n_ctx:,} tokens"


def _how(model: ModelFile, n_ctx: int, fitting: int | None) -> str:
    cores = machine.usable_cores()
    workers = cores if fitting is None else min(fitting, cores)
    first = "after it has been rewritten once (by itself), " if model.needs_rewrite else ""
    room = "" if fitting is None else f" (memory for {fitting:,})"
    return (
        f"{first}by {_ENGINES[model.engine]} as {model.library_type!r},"
        f" with {_counted(workers, 'worker')} on {_counted(cores, 'core')}{room}"
        f" at {n_ctx:,} tokens each ({why_n_ctx(model, n_ctx, None)})"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _size(n_bytes: int) -> str:
    if n_bytes < 1 << 10:
        return f"{n_bytes} B"
    return f"{n_bytes >> 10} KiB" if n_bytes < 1 << 20 else f"{n_bytes >> 20:,} MiB"
