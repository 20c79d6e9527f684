"""Makes prompts of chats and texts: plain text and special tokens by turns."""

import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

from shared.errors import ErrorCode
from shared.messages import Chat, Text
from shared.model_info import PLAIN_ORIGIN
from shared.tool_calls import OPEN
from worker.engines.base import Engine
from worker.prompt.formats import ChatFormat
from worker.prompt.render import ChatTemplate, OutOfFuel
from worker.prompt.special import END_MARK, SpecialTokens
from worker.prompt.tools import Message, as_plain, describes_tools, with_instructions

logger = logging.getLogger(__name__)

Parts: TypeAlias = tuple[str, ...]
"""Plain text and texts of special tokens by turns, plain text first."""

_LONGEST_REASON = 1000
_ADVICE = "CHAT_TEMPLATE can name another"


class PromptError(Exception):
    """There is no prompt; the text is for the client."""

    def __init__(self, code: ErrorCode, message: str, param: str | None = None) -> None:
        """``param`` is the field at fault; None for that of the prompt."""
        super().__init__(message)
        self.code = code
        self.param = param


class Prompts:
    """The prompts of one model."""

    def __init__(self, engine: Engine, chat_format: ChatFormat) -> None:
        """Prepare; the template is compiled by the first chat, since that may go wrong."""
        special = engine.special_tokens
        control = [text for text, token in special.items() if not engine.token_bytes(token)]
        self._special = SpecialTokens(special, control)
        self.name = chat_format.name
        self._info = engine.info
        self._format = chat_format
        self._describes_tools = describes_tools(chat_format.source)
        # One in which calls are written in another way is of no use here.
        source = chat_format.tool_source
        self._tool_source = source if source and describes_tools(source) else None
        self._templates: dict[str, ChatTemplate | None] = {}
        self.stop: tuple[str, ...] = chat_format.stops(special)

    def of_text(self, text: Text) -> Parts:
        """The prompt that asks to continue a text, or to fill in what leads to its suffix.

        Alone, the text is the whole prompt, and its special tokens are some. With a suffix both are
        somebody's document, and the order (prefix, suffix, then the middle is asked for) is the one
        that StarCoder has learned, by its paper.

        Raises:
            PromptError: the model has not learned to fill in.
        """
        if not text.suffix:
            return self._special.split(text.text) if text.parses_special else (text.text,)
        if self._info.fim_tokens is None:
            message = (
                f"This model's family ({self._info.family}) has not learned to fill in the middle."
            )
            raise PromptError(ErrorCode.UNSUPPORTED_PARAMETER, message, "suffix")
        before, after, middle = self._info.fim_tokens
        return ("", before, text.text, after, text.suffix, middle, "")

    def of_chat(self, chat: Chat) -> Parts:
        """The prompt that asks for the next message, with the tools described in whatever way.

        If the last message is the assistant's, the model continues it; one without text is only
        the place for the answer.

        Raises:
            PromptError: the format does not take these messages, or it is broken.
        """
        messages: Sequence[Message] = chat.messages
        last = messages[-1]
        continues = last["role"] == "assistant" and not last.get("tool_calls")
        if continues and not last["content"] and len(messages) > 1:
            messages, continues = messages[:-1], False
        if self._describes_tools or (chat.tools and self._tool_source):
            return self._render(messages, chat.tools, continues)
        plain = as_plain(messages)
        if not chat.tools:
            return self._render(plain, (), continues)
        parts: Parts = ()
        try:
            parts = self._render(with_instructions(plain, chat.tools, "system"), (), continues)
        except PromptError as error:
            # Some formats know no system message; who sent one is told so.
            if error.code is not ErrorCode.INVALID_VALUE or plain[0]["role"] == "system":
                raise
        if any(OPEN in part for part in parts):
            return parts
        # And some pass over it without a word.
        return self._render(with_instructions(plain, chat.tools, "user"), (), continues)

    def _template(self, source: str) -> ChatTemplate | None:
        """The compiled template; None if it does not compile, which the log then says once."""
        if source not in self._templates:
            self._templates[source] = self._compiled(source)
        return self._templates[source]

    def _compiled(self, source: str) -> ChatTemplate | None:
        chat_format = self._format
        if chat_format.origin == PLAIN_ORIGIN:
            logger.warning("chats get the format 'plain', for %s; %s", PLAIN_ORIGIN, _ADVICE)
        try:
            return ChatTemplate(source)
        except ValueError as error:
            logger.error(
                "the chat template %r (%s) does not compile: %s; %s",
                chat_format.name, chat_format.origin, error, _ADVICE,
            )  # fmt: skip
            return None

    def _render(self, messages: Sequence[Message], tools: Sequence[Any], continues: bool) -> Parts:
        source = self._tool_source if tools and self._tool_source else self._format.source
        template = self._template(source)
        if template is None:
            message = "This model's chat template is broken; /v1/completions works without it."
            raise PromptError(ErrorCode.INTERNAL_ERROR, message)
        masked = [self._special.mask(message) for message in messages]
        if continues:
            masked[-1]["content"] += END_MARK
        variables = {
            "messages": masked,
            "add_generation_prompt": not continues,
            "bos_token": self._info.bos_token,
            "eos_token": self._info.eos_token,
            "tools": self._special.mask(list(tools)) or None,
            "documents": None,
        }
        try:
            text = template.render(variables)
            if continues:
                text = _up_to_mark(text)
        except OutOfFuel as error:
            logger.error("the chat template %r was stopped: %s", self._format.name, error)
            message = f"The chat template was stopped at these messages: {error}."
            raise PromptError(ErrorCode.TEMPLATE_TOO_EXPENSIVE, message) from error
        except Exception as error:  # a template is a program: it can fail in any way
            reason = self._special.unmask(str(error)[:_LONGEST_REASON].replace(END_MARK, ""))
            message = f"The chat template does not take these messages: {reason}"
            raise PromptError(ErrorCode.INVALID_VALUE, message) from error
        return self._special.split_masked(text)


def _up_to_mark(text: str) -> str:
    text, mark, _ = text.rpartition(END_MARK)
    if not mark:
        raise ValueError("it leaves out the last one, which is to be gone on with")
    return text.replace(END_MARK, "")  # it may have shown it before
