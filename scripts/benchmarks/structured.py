"""Structured output: whether it is always valid, and what masks and log probabilities cost."""

import json
import statistics
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from scripts.benchmarks.schemas import Schema, schemas
from scripts.benchmarks.setup import CHAT, CORES, RequestFailed, Setup, Target
from scripts.client import Connection
from scripts.figures import Results
from scripts.server import Server
from shared.config import WorkerConfig
from shared.grammar import Grammar, GrammarKind

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


def measure_validity(setup: Setup, results: Results) -> None:
    """Add how much of what is bound to a schema follows it."""
    import jsonschema

    n = setup.choose(200, 10)
    numbered = list(enumerate(schemas(n)))
    with setup.serve() as server:
        for ask, name in (
            (_as_schema, "`json_schema`, temperature 1: valid answers"),
            (_as_call, "`tool_choice: required`, temperature 1: calls with valid arguments"),
        ):
            with ThreadPoolExecutor(CORES) as threads:
                texts = list(threads.map(lambda x, ask=ask: ask(server, x[1], x[0]), numbered))
            pairs = zip(numbered, texts, strict=True)
            whole = [(schema, text) for (_, schema), text in pairs if text is not None]
            n_valid = sum(
                jsonschema.Draft202012Validator(schema).is_valid(json.loads(text))
                for schema, text in whole
            )
            name = f"{name} ÷ those not cut by length ({len(whole)} of {n} schemas)"
            results.add("validity", name, n_valid / len(whole), goal="≥ 1.0")


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
    connection = Connection(server.url)
    reply = connection.post(CHAT, {
        "stream": False, "messages": [{"role": "user", "content": _PROMPTS[place % len(_PROMPTS)]}],
        "temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "seed": place,
        "max_tokens": _MOST_TOKENS, **wanted,
    })  # fmt: skip
    connection.close()
    if reply.status != 200:
        raise RequestFailed(f"schema {place}: {reply.end} {reply.body!r}")
    answer: dict[str, Any] = json.loads(reply.body)["choices"][0]
    return answer


def measure_masks(setup: Setup, results: Results) -> None:
    """Add what schemas and log probabilities cost over HTTP, and the masks alone."""
    n, free = setup.choose(64, 16), {"ignore_eos": True}
    kinds: dict[str, dict[str, Any]] = {
        "schema": {"guided_json": _LONG, "ignore_eos": False},
        "logprobs": {"logprobs": 5, **free},
        "nothing": dict(free),
    }
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    with setup.serve() as server:
        target = Target("this server", server.url)
        for number in range(_ALTERNATIONS * setup.rounds + 1):
            for kind, extra in kinds.items():
                # Before and after, and for a short time only: the machine's speed drifts.
                before = _gap_s(target, number, n, free)
                with_it = _gap_s(target, number, n, extra)
                after = _gap_s(target, number, n, free)
                if number:  # the first round warms everything up
                    ratios[kind].append((before + after) / 2 / with_it)
    add = partial(results.add, "masks")
    middle = {kind: statistics.median(values) for kind, values in ratios.items()}
    add("decode speed with a JSON schema ÷ without", middle["schema"], goal="≥ 0.95")
    add("decode speed with 5 `top_logprobs` ÷ without", middle["logprobs"], goal="≥ 0.97")
    add("decode speed with nothing ÷ with nothing, the noise of these", middle["nothing"])
    _measure_masks_alone(setup, results)


def _gap_s(target: Target, number: int, n: int, extra: dict[str, Any]) -> float:
    """Seconds between two pieces of a stream of ``n`` tokens, the median."""
    seen = target.complete(
        f"{number}. A list of sentences as JSON:", n, temperature=1, seed=number, **extra
    )
    return statistics.median(seen.gaps_s)


def _measure_masks_alone(setup: Setup, results: Results) -> None:
    """Measure what masks take along answers that follow many schemas, in this process."""
    import numpy as np

    from worker import engines
    from worker.grammar.grammars import Grammars

    engine = engines.load(WorkerConfig("ctransformers", model_path=setup.model, n_ctx=512))
    grammars, random = Grammars(engine), np.random.default_rng(0)
    began_s = time.perf_counter()
    grammars.prepare()
    prepared_ms = (time.perf_counter() - began_s) * 1000
    masks_ms, compiled_ms = list[float](), list[float]()
    wanted = list(schemas(setup.choose(50, 5)))
    for schema in wanted:
        began_s = time.perf_counter()
        matcher = grammars.matcher(Grammar(GrammarKind.JSON_SCHEMA.value, json.dumps(schema)))
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
    add("the vocabulary as a tree, once for all workers", prepared_ms, digits=3)
