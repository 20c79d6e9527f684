"""``ggml-fastapi inspect FILE``: what a model file is, and whether it can be served here."""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gateway import machine
from shared.errors import ModelFileError, UsageError
from shared.inspector import inspect
from shared.model_file import ModelFile

_ENGINE = "ctransformers 0.2.27"
_DEFAULT_N_CTX = 4096
_WORKER_BYTES = 32 << 20
"""What a worker takes beyond its KV cache and evaluation buffers (interpreter pages)."""

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
    _print([*_description(model), *_memory(model)])
    if options.tensors:
        print()
        _print(_tensors(model))
    problem = _problem_here(model)
    if problem:
        print(f"\nservable: no, {problem}")
        return 1
    print(f"\nservable: yes, {_how(model)}")
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
    yield "layers", f"{model.n_layer}"
    yield "width", f"{model.n_embd:,}, feed-forward {model.n_ff:,}"
    yield "heads", f"{model.n_head}, of keys and values {model.n_head_kv}"
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


def _memory(model: ModelFile) -> Iterator[Row]:
    needs = model.memory
    yield "weights", f"{_size(needs.weights)}, shared by all workers"
    yield "KV cache", f"{_size(1024 * needs.kv_per_token)} for 1,024 tokens"
    yield "scratch", f"{_size(_scratch(model))} at {_n_ctx(model):,} tokens"


def _tensors(model: ModelFile) -> list[Row]:
    return [
        (one.name, f"{one.type_name:6} {' x '.join(map(str, one.shape))}") for one in model.tensors
    ] or [("no tensors", "")]


def _problem_here(model: ModelFile) -> str | None:
    """Why this machine cannot serve it, if it cannot."""
    memory = machine.available_memory()
    if memory is not None and _workers(model, memory) < 1:
        return (
            f"it needs {_size(model.memory.weights + _worker_bytes(model))} of memory with a "
            f"context of {_n_ctx(model):,} tokens, and {_size(memory)} are free"
        )
    return None


def _how(model: ModelFile) -> str:
    memory = machine.available_memory()
    cores = machine.usable_cores()
    fitting = math.inf if memory is None else _workers(model, memory)
    first = "after it has been rewritten once (by itself), " if model.needs_rewrite else ""
    workers = "1 worker" if min(fitting, cores) == 1 else f"{min(fitting, cores)} workers"
    fits = "" if fitting is math.inf else f" (memory for {fitting:,})"
    return (
        f"{first}by {_ENGINE} as {model.library_type!r}, with {workers} on "
        f"{cores} {'core' if cores == 1 else 'cores'}{fits} at {_n_ctx(model):,} tokens each"
    )


def _n_ctx(model: ModelFile) -> int:
    return min(_DEFAULT_N_CTX, model.n_ctx_most)


def _scratch(model: ModelFile) -> int:
    shorter = model.n_ctx_most - _n_ctx(model)
    return model.memory.scratch - shorter * model.memory.scratch_per_token


def _worker_bytes(model: ModelFile) -> int:
    return _WORKER_BYTES + _scratch(model) + _n_ctx(model) * model.memory.kv_per_token


def _workers(model: ModelFile, memory: int) -> int:
    """How many workers fit into so many bytes."""
    return max(0, memory - model.memory.weights) // _worker_bytes(model)


def _size(n_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024 or unit == "MiB":
            break
        n_bytes //= 1024
    return f"{n_bytes:,} {unit}"
