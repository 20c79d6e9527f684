"""Answers of the dialects, from events, without a pool."""

from collections.abc import Sequence
from typing import Any

import orjson

from gateway.answer.reader import Progress, reader_for
from gateway.answer.run import Tally
from gateway.ask import Ask, Prompt
from gateway.dialects import Dialect, Header, Writer
from gateway.dialects.chat import MANY_CHATS
from gateway.dialects.completions import COMPLETIONS
from shared.messages import Prepare, Text

HEADER = Header("answer-1", 1, "org/model", "m.gguf@1")
Asked = tuple[Dialect, Ask]
Arrival = tuple[int, Progress]


def chat(**body: Any) -> Asked:
    messages = [{"role": "user", "content": "x"}]
    return MANY_CHATS, MANY_CHATS.read({"messages": messages, "model": "m", **body})


def completion(**body: Any) -> Asked:
    return COMPLETIONS, COMPLETIONS.read({"prompt": "x", "model": "m", **body})


def _text_of(prompt: Prompt) -> str:
    """The text of a completion's prompt."""
    asked = prompt.prompt if isinstance(prompt, Prepare) else None
    return asked.text if isinstance(asked, Text) else ""


class Answer:
    """An answer on its way."""

    def __init__(self, asked: Asked, header: Header = HEADER) -> None:
        dialect, ask = asked
        texts = [_text_of(prompt) for prompt in ask.prompts]
        self.readers = [reader_for(ask, text) for text in texts for _ in range(ask.candidates)]
        self.writer: Writer = dialect.writer(ask, header)
        self.tally = Tally(ask.candidates)

    def send(self, index: int, event: Progress) -> bytes:
        sent = b""
        for piece in self.readers[index].read(event):
            self.tally.count(index, piece)
            sent += self.writer.piece(index, piece)
        return sent


def streamed(asked: Asked, arrivals: Sequence[Arrival]) -> list[Any]:
    """The chunks of a stream."""
    answer = Answer(asked)
    raw = b"".join([answer.send(*arrival) for arrival in arrivals])
    *blocks, done, rest = (raw + answer.writer.end(answer.tally.usage)).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert all(block.startswith(b"data: {") for block in blocks)
    return [orjson.loads(block[6:]) for block in blocks]


def whole(asked: Asked, arrivals: Sequence[Arrival]) -> Any:
    answer = Answer(asked)
    for index, event in arrivals:
        for piece in answer.readers[index].read(event):
            answer.tally.count(index, piece)
            answer.writer.collect(index, piece)
    return answer.writer.whole(answer.tally.usage)
