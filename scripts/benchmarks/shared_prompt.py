"""What a system prompt that all requests share costs: how many of its tokens are evaluated."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from scripts.bench_sides import N_CTX, Server
from scripts.benchmarks.results import Results
from scripts.benchmarks.setup import Setup
from scripts.benchmarks.target import Connection, Target, checked, unlike_any, words
from shared.config import WorkerConfig
from shared.messages import Chat


class PromptTokens:
    """Renders and tokenizes chats as the server does, to know what their prompts share."""

    def __init__(self, model: Path) -> None:
        """Load the model's tokenizer, and with it the model."""
        from worker.engines import load
        from worker.prompt.formats import choose_format
        from worker.prompt.prompts import Prompts

        config = WorkerConfig("ctransformers", str(model), n_ctx=N_CTX)
        self._engine = load(config)
        own = self._engine.info.chat_template
        self._prompts = Prompts(self._engine, choose_format(config, own))

    def of(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The ids of a chat's prompt."""
        return self._engine.tokenize(self._prompts.of_chat(Chat(tuple(messages))))


def distinct_tokens(prompts: Sequence[Sequence[int]], before: Sequence[Sequence[int]]) -> int:
    """How many tokens of ``prompts`` are no part of a prefix that an earlier prompt had.

    Args:
        prompts: token ids, in the order in which they are sent.
        before: those that were sent earlier still.
    """
    seen, total = [*before], 0
    for prompt in prompts:
        total += len(prompt) - max((common_prefix(prompt, other) for other in seen), default=0)
        seen.append(prompt)
    return total


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def measure(setup: Setup, results: Results) -> None:
    """Add how many tokens were evaluated for requests that share a long system prompt."""
    n_requests, n_tokens = setup.choose(50, 6), setup.choose(1000, 200)
    system = words(n_tokens)
    tokens = PromptTokens(setup.model)
    chats = [_question(system, number) for number in range(n_requests)]
    prompts = [tokens.of(chat) for chat in chats]
    n_shared = common_prefix(prompts[0], prompts[1])
    what = f"{n_requests} requests with one shared system prompt of {n_shared} tokens"

    with Server(MODEL_NAME=str(setup.model), WORKERS="2") as server:
        target = Target("this server", server.url)
        warm_up = [_question(system, -number) for number in range(1, setup.choose(12, 4) + 1)]
        _ask(target, warm_up)
        evaluated = _ask(target, chats)
    distinct = distinct_tokens(prompts, [tokens.of(chat) for chat in warm_up])
    name = f"{what}: prompt tokens evaluated ÷ distinct ones, after {len(warm_up)} others"
    results.add("shared", name, evaluated / distinct, goal="≤ 1.05")

    with Server(MODEL_NAME=str(setup.model), WORKERS="2", WARM_PROMPT=system) as server:
        target = Target("this server", server.url)
        evaluated = _ask(target, chats)
    distinct = distinct_tokens(prompts, [prompts[0][:n_shared]])
    name = "the same with WARM_PROMPT, from the first request on"
    results.add("shared", name, evaluated / distinct, goal="≤ 1.05")


def _question(system: str, number: int) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": f"{unlike_any()} {words(24, salt=number)}"},
    ]


def _ask(target: Target, chats: Sequence[Sequence[dict[str, str]]]) -> int:
    """Send chats, two at a time; returns how many prompt tokens were evaluated."""

    def work(connection: Connection, share: Sequence[Sequence[dict[str, str]]]) -> int:
        outcomes = [checked(connection.chat(chat, 4)) for chat in share]
        return sum(outcome.prompt_tokens - outcome.cached_tokens for outcome in outcomes)

    _, evaluated = target.side_by_side([partial(work, share=chats[k::2]) for k in range(2)])
    return sum(evaluated)
