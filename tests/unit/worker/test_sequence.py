"""Tests of the state of one generation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared.config import WorkerConfig
from shared.logprobs import Candidate
from shared.messages import Generate
from shared.sampling import SamplingParams
from worker.engines.echo import EchoEngine
from worker.sequence import Sequence

LONG_TOKENS = {0: b"A\xf0\x9f", 1: b"AB", 2: b"BC", 3: b"<control>"}


class Engine(EchoEngine):
    """The echo engine, where a few tokens have other bytes; 3 is a control token."""

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == 3 else LONG_TOKENS.get(token) or super().token_bytes(token)

    def token_name(self, token: int) -> str:
        return "<control>" if token == 3 else super().token_name(token)


def sequence(
    prompt: list[int] | None = None,
    cached: int = 0,
    budget: int = 100,
    stop: tuple[str, ...] = (),
    **fields: Any,
) -> Sequence:
    request = replace(Generate("r", (), SamplingParams(temperature=0.0), stop=stop), **fields)
    return Sequence(
        Engine(WorkerConfig("echo")),
        request,
        [1, 2, 3] if prompt is None else prompt,
        cached_tokens=cached,
        budget=budget,
    )


def logits(*likeliest: int) -> Any:
    """Logits by which some tokens are the likeliest, the first of them most of all."""
    values = np.zeros(257, np.float32)
    for place, token in enumerate(likeliest):
        values[token] = 20 - place
    return values


def test_a_generated_token_is_evaluated_next() -> None:
    begun = sequence()
    begun.take_chunk(99)
    assert begun.append(65) == ("A", None)
    assert (begun.pending, begun.completion_tokens, begun.delta("A").tokens) == ([65], 1, 1)


def test_ends_at_the_budget() -> None:
    begun = sequence(budget=2)
    begun.take_chunk(99)
    assert begun.append(65) == ("A", None)
    begun.take_chunk(99)
    assert begun.append(66) == ("B", "length")
    assert begun.pending == []


def test_a_stop_string_at_the_budget_is_a_stop() -> None:
    begun = sequence(budget=1, stop=("B",))
    assert begun.append(1) == ("A", "stop")


def test_what_was_held_back_is_released_at_the_budget() -> None:
    begun = sequence(budget=2, stop=("BCD",))
    assert begun.append(1) == ("A", None)
    assert begun.append(67) == ("BC", "length")


def test_what_was_held_back_is_released_at_the_end() -> None:
    begun = sequence(stop=("BCD",))
    assert begun.append(1) == ("A", None)
    assert begun.end() == "B"


def test_an_unfinished_character_may_complete_a_stop_string() -> None:
    begun = sequence(stop=("\ufffd",))
    assert begun.append(0) == ("A", None)
    assert begun.end() == ""
    begun = sequence(budget=1, stop=("\ufffd",))
    assert begun.append(0) == ("A", "stop")


def test_nothing_ends_what_is_too_short() -> None:
    begun = sequence(stop=("B",), min_tokens=2, stop_ids=(70,))
    begun.take_chunk(99)
    assert begun.draw(logits(256, 70, 66)) == 66
    assert begun.append(66) == ("B", None)
    assert begun.draw(logits(70, 66)) == 66
    assert begun.append(66) == ("B", None)
    assert begun.draw(logits(70, 66)) is None
    assert begun.append(66) == ("", "stop")


def test_logprobs_are_those_of_the_model_itself() -> None:
    sampling = SamplingParams(temperature=0.0, frequency_penalty=2, logit_bias=((66, 30.0),))
    begun = sequence(sampling=sampling, logprobs=2)
    assert begun.draw(logits(65, 256)) == 66
    begun.append(66)
    (entry,) = begun.delta("B").logprobs
    total = np.log(np.exp(20.0) + np.exp(19.0) + 255)
    assert entry.chosen.raw == "B" and entry.chosen.logprob == pytest.approx(-total, abs=1e-4)
    assert [top.raw for top in entry.top] == ["A", "<end>"]
    assert [top.is_control for top in entry.top] == [False, True]
    assert [top.logprob for top in entry.top] == pytest.approx([20 - total, 19 - total], abs=1e-4)


def test_a_token_is_told_of_with_the_text_that_it_ends() -> None:
    begun = sequence(stop=("BCD",), logprobs=0)
    for token, text in ((1, "A"), (67, ""), (65, "BCA")):
        begun.draw(logits(token))
        assert begun.append(token) == (text, None)
        if text:
            raws = [entry.chosen.raw for entry in begun.delta(text).logprobs]
            assert raws == (["AB"] if text == "A" else ["C", "A"])


def test_tokens_that_a_stop_string_cuts_off_are_not_told_of() -> None:
    begun = sequence(stop=("BCD",), logprobs=0)
    for token in (65, 66, 2):
        begun.draw(logits(token))
        text, reason = begun.append(token)
    assert (text, reason) == ("B", None)  # a second B begins anew
    assert [entry.chosen.raw for entry in begun.delta("AB").logprobs] == ["A", "B"]
    begun.draw(logits(68))
    assert begun.append(68) == ("", "stop")
    assert not begun.has_unreported_logprobs


def test_a_control_token_is_called_by_its_name() -> None:
    begun = sequence(logprobs=0)
    begun.draw(logits(3))
    assert begun.append(3) == ("", None)
    assert begun.has_unreported_logprobs
    assert begun.delta("").logprobs == (), "it comes with the text behind it, or at the end"
    (entry,) = begun.delta("", is_last=True).logprobs
    assert entry.chosen == Candidate("<control>", entry.chosen.logprob, is_control=True)


def test_the_prompt_is_told_of_token_by_token() -> None:
    begun = sequence(prompt=[65, 66, 67], echoes_from=0, logprobs=1)
    chunks = []
    for following in (66, 90):
        chunks.append(begun.take_chunk(32))
        begun.note_prompt(logits(following))
    chunks.append(begun.take_chunk(32))
    assert chunks == [[65], [66], [67]]
    prefilled = begun.prefilled()
    first, second, third = prefilled.echo_logprobs
    assert first.chosen == Candidate("A", None) and first.top == ()
    assert second.top[0] == second.chosen
    assert third.top[0].raw == "Z" and third.chosen.raw == "C"


def test_tokens_that_end_it_do_so_though_the_model_may_not() -> None:
    begun = sequence(ignores_eog=True, stop_ids=(70,))
    assert begun.draw(logits(256, 65, 70)) == 65
    begun.append(65)
    assert begun.draw(logits(256, 70)) is None
    # Also the model's own, if it is asked for by its number.
    begun = sequence(ignores_eog=True, stop_ids=(256,))
    assert begun.draw(logits(256, 65)) is None
    begun = sequence(ignores_eog=True, stop_ids=(256,), min_tokens=1)
    assert begun.draw(logits(256, 65)) == 65


def test_bytes_that_are_no_text_do_not_shift_what_a_stop_string_cuts() -> None:
    begun = sequence(stop=("BCD",), logprobs=0)
    for token in (0xFF, 0xFF, 0xFF, 65, 66, 67):
        begun.draw(logits(token))
        text, _ = begun.append(token)
        if text:
            begun.delta(text)
    begun.draw(logits(68))
    assert begun.append(68) == ("", "stop")
    assert not begun.has_unreported_logprobs


def test_a_letter_in_pieces_is_cut_off_with_all_of_them() -> None:
    begun = sequence(stop=("é",), logprobs=0)
    for token in (65, 0xC3, 0xA9):
        begun.draw(logits(token))
        text, reason = begun.append(token)
        if text:
            assert [entry.chosen.raw for entry in begun.delta(text).logprobs] == ["A"]
    assert reason == "stop" and not begun.has_unreported_logprobs
