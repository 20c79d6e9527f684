"""Evaluates expressions as templates do, with bounds and without."""

from gateway.chat.messages import ChatMessage
from gateway.chat.sandbox import ChatTemplate
from gateway.chat.special import SpecialTokens
from tests.unit.gateway.chat import reference

MESSAGES = [
    ChatMessage(role="user", content=" Hi there\n"),
    ChatMessage(role="assistant", content="ab\n\ncd <s>"),
]
SPECIAL = SpecialTokens(reference.SPECIAL)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, SPECIAL)


def bounded(source: str, longest: int = 10_000) -> str:
    """What a template makes of ``MESSAGES``, or of their texts as if it had written them."""
    marked = [{key: SPECIAL.mark(str(text)) for key, text in m.items()} for m in MESSAGES]
    made = template(source)
    by_client = SPECIAL.plain(made.render({"messages": MESSAGES}, longest))
    assert by_client == SPECIAL.plain(made.render({"messages": marked}, longest))
    return by_client


def unbounded(source: str) -> str:
    """What Jinja itself makes of them."""
    return reference.rendered(source, MESSAGES)
