"""Structured output: whether it is always valid, and what masks and log probabilities cost."""

import json
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gateway import machine
from scripts.bench_sides import Server
from scripts.benchmarks.results import Results
from scripts.benchmarks.schemas import Schema, schemas
from scripts.benchmarks.setup import Setup
from shared.config import WorkerConfig
from shared.encoding import encode
from shared.grammar import Grammar, GrammarKind
from shared.messages import Generate

if TYPE_CHECKING:
    from worker.engines.base import Engine
    from worker.grammar.grammars import Grammars

# Of one kind with another, in a round of the other benchmarks.
_ALTERNATIONS = 4

_PROMPTS = (
    "Describe a person as JSON.",
    "Give me an example of an order in a shop, as JSON.",
    "Write down what you know about Paris as JSON.",
    "Make something up, as JSON.",
)
_MOST_TOKENS = 500
# Long texts of few constraints, so that all are decoded as long as the others.
_LONG = {"type": "array", "items": {"type": "string"}, "minItems": 10_000}
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "email": {"type": "string", "format": "email"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}},
    },
    "required": ["name", "email", "age", "tags"],
    "additionalProperties": False,
}


def measure_validity(setup: Setup, results: Results) -> None:
    """Add how much of what is bound to a schema follows it."""
    with Server(MODEL_NAME=str(setup.model)) as server:
        _measure_validity(setup, results, server)


def measure_cost(setup: Setup, results: Results) -> None:
    """Add what schemas and log probabilities cost, and the masks alone."""
    with Server(MODEL_NAME=str(setup.model)) as server:
        _measure_speed(setup, results, server)
    _measure_parts(setup, results)


def _measure_validity(setup: Setup, results: Results, server: Server) -> None:
    import jsonschema

    n = setup.choose(200, 10)
    numbered = list(enumerate(schemas(n)))
    add = partial(results.add, "validity", goal="≥ 1.0")
    for ask, name in (
        (_as_schema, "`json_schema`, temperature 1: valid answers"),
        (_as_call, "`tool_choice: required`, temperature 1: calls with valid arguments"),
    ):
        with ThreadPoolExecutor(machine.usable_cores()) as threads:
            texts = list(threads.map(lambda each, ask=ask: ask(server, each[1], each[0]), numbered))
        whole = [(schema, text) for (_, schema), text in zip(numbered, texts, strict=True) if text]
        n_valid = sum(
            jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
            for schema, text in whole
        )
        of = f"{len(whole)} of {n} schemas"
        add(f"{name} ÷ those not cut by length ({of})", n_valid / len(whole))


def _as_schema(server: Server, schema: Schema, place: int) -> str | None:
    """What answers a request for JSON; None if it was cut by its length."""
    wanted = {"name": "answer", "strict": True, "schema": schema}
    answer = _ask(server, place, response_format={"type": "json_schema", "json_schema": wanted})
    return None if answer["finish_reason"] == "length" else answer["message"]["content"]


def _as_call(server: Server, schema: Schema, place: int) -> str | None:
    """The arguments of the call that answers; None if it was cut by its length."""
    tool = {"type": "function", "function": {"name": "answer", "parameters": schema}}
    answer = _ask(server, place, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    if answer["finish_reason"] == "length":
        return None
    (call,) = answer["message"]["tool_calls"]
    text: str = call["function"]["arguments"]
    return text


def _ask(server: Server, place: int, **wanted: Any) -> dict[str, Any]:
    body = {
        "stream": False,
        "messages": [{"role": "user", "content": _PROMPTS[place % len(_PROMPTS)]}],
        "temperature": 1,
        "top_p": 1,
        "top_k": 0,
        "min_p": 0,
        "seed": place,
        "max_tokens": _MOST_TOKENS,
        **wanted,
    }
    reply = json.loads(server.post("/v1/chat/completions", json.dumps(body).encode()))
    if "error" in reply:
        raise RuntimeError(f"schema {place}: {reply['error']['message']}")
    answer: dict[str, Any] = reply["choices"][0]
    return answer


def _measure_speed(setup: Setup, results: Results, server: Server) -> None:
    n = setup.choose(64, 16)
    free: dict[str, Any] = {"ignore_eos": True}
    kinds = {
        "schema": {"guided_json": _LONG},
        "logprobs": {"logprobs": 5, **free},
        "nothing": free,
    }
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(_ALTERNATIONS * setup.rounds + 1):
        for kind, extra in kinds.items():
            # Before and after, and for a short time only: the machine's speed drifts.
            before = _gap_s(server, number, n, free)
            with_it = _gap_s(server, number, n, extra)
            after = _gap_s(server, number, n, free)
            if number:  # the first round warms everything up
                ratios[kind].append((before + after) / 2 / with_it)
    add = partial(results.add, "masks")
    middle = {kind: statistics.median(values) for kind, values in ratios.items()}
    add("decode speed with a JSON schema ÷ without", middle["schema"], goal="≥ 0.95")
    add("decode speed with 5 `top_logprobs` ÷ without", middle["logprobs"], goal="≥ 0.97")
    add("decode speed with nothing ÷ with nothing, the noise of these", middle["nothing"])


def _gap_s(server: Server, number: int, n: int, extra: dict[str, Any]) -> float:
    """Seconds between two pieces of a stream of ``n`` tokens, the median."""
    body = {
        "prompt": f"{number}. A list of sentences as JSON:",
        "max_tokens": n,
        "stream": True,
        "seed": number,
        **extra,
    }
    times = [time.perf_counter() for _ in server.stream(body)]
    return statistics.median(after - before for before, after in pairwise(times[:-1]))


def _measure_parts(setup: Setup, results: Results) -> None:
    """Measure in this process what comes on top of an evaluation, which empties the caches."""
    from worker import engines
    from worker.engines.base import SlotTokens
    from worker.grammar.grammars import Grammars
    from worker.sequence import Sequence

    engine = engines.load(WorkerConfig("ctransformers", model_path=str(setup.model), n_ctx=512))
    grammars = Grammars(engine)
    began_s = time.perf_counter()
    grammars.prepare()
    prepared_s = time.perf_counter() - began_s
    grammar = Grammar(GrammarKind.JSON_SCHEMA.value, json.dumps(_LONG))
    on_top: defaultdict[str, list[float]] = defaultdict(list)
    evaluations: list[float] = []
    for number in range(setup.rounds):
        for kind, extra in (
            ("nothing", {"ignores_eog": True}),
            ("schema", {"grammar": grammar}),
            ("logprobs", {"ignores_eog": True, "logprobs": 5}),
        ):
            ids = engine.tokenize((f"{number}. As JSON:",))
            request = Generate("r", tuple(ids), max_tokens=setup.choose(128, 16))
            request = replace(request, **extra)
            matcher = None if request.grammar is None else grammars.matcher(request.grammar)
            cached = engine.reuse_prefix(0, ids)
            budget = request.max_tokens or 0
            sequence = Sequence(
                engine, request, ids, cached_tokens=cached, budget=budget, matcher=matcher
            )
            while sequence.pending:
                tokens = sequence.take_chunk(engine.chunk_size(0))
                began_s = time.perf_counter()
                (logits,) = engine.forward([SlotTokens(0, tokens)], 1)
                evaluated_s = time.perf_counter()
                if sequence.pending:
                    continue
                assert logits is not None
                token = sequence.draw(logits)
                text, _ = sequence.append(token or 0)
                encode(sequence.delta(text))
                evaluations.append((evaluated_s - began_s) * 1000)
                on_top[kind].append((time.perf_counter() - evaluated_s) * 1000)
    middle = {kind: statistics.median(values) for kind, values in on_top.items()}
    add = partial(results.add, "masks", unit="ms", digits=3)
    add("an evaluation of one token, one thread: median", statistics.median(evaluations))
    add("what the worker does besides, free text: median", middle["nothing"])
    add("more than that with a JSON schema", middle["schema"] - middle["nothing"])
    add("more than that with 5 `top_logprobs`", middle["logprobs"] - middle["nothing"])
    add("the vocabulary as a tree, once for all workers", prepared_s * 1000)
    _measure_masks(setup, results, engine, grammars)


def _measure_masks(setup: Setup, results: Results, engine: "Engine", grammars: "Grammars") -> None:
    """Measure what masks take along answers that follow many schemas."""
    import numpy as np

    random = np.random.default_rng(0)
    masks_ms: list[float] = []
    compiled_ms: list[float] = []
    wanted = [_PERSON, *schemas(setup.choose(50, 5))]
    for schema in wanted:
        grammar = Grammar(GrammarKind.JSON_SCHEMA.value, json.dumps(schema))
        began_s = time.perf_counter()
        matcher = grammars.matcher(grammar)
        compiled_ms.append((time.perf_counter() - began_s) * 1000)
        while not matcher.is_complete and len(masks_ms) < 100 * len(wanted):
            began_s = time.perf_counter()
            allowed = matcher.allowed().nonzero()[0]
            masks_ms.append((time.perf_counter() - began_s) * 1000)
            token = int(random.choice(allowed))
            if token in engine.eog:
                break
            matcher.accept(token)
    add = partial(results.add, "masks", unit="ms")
    name = f"a mask over {engine.info.n_vocab:,} tokens: median"
    add(name, statistics.median(masks_ms), digits=3, goal="≤ 0.5")
    add("the same: 99 of 100 take at most", statistics.quantiles(masks_ms, n=100)[98], digits=3)
    add("a new schema, tried and compiled: median", statistics.median(compiled_ms), digits=1)
