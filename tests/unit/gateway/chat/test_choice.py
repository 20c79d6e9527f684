"""Which chat format a model gets."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.chat.choice import PLAIN_ORIGIN, choose_template, load_chat_template
from gateway.chat.formats import FORMATS
from gateway.models import ServingConfig
from shared.errors import UsageError
from tests.unit.gateway.fakes import CONFIG, MODEL

OWN = replace(MODEL, chat_template="{{ 'own' }}")


def named(file: str = "model.bin", model_id: str = "model") -> ServingConfig:
    return replace(CONFIG, model_file=f"/wizardcoder/{file}", model_id=model_id)


def test_the_setting_comes_first() -> None:
    asked_for = load_chat_template("Vicuna")
    assert asked_for is not None and asked_for.name == "vicuna"
    config = replace(named("starchat.bin"), chat_template=asked_for)
    assert choose_template(config, OWN) is asked_for
    assert asked_for.origin == "CHAT_TEMPLATE"


def test_the_files_own_comes_second() -> None:
    made = choose_template(named("starchat.bin"), OWN)
    assert (made.name, made.source, made.origin) == ("own", "{{ 'own' }}", "the model's file")
    assert (made.stop, made.stop_tokens) == ((), ())
    empty = replace(MODEL, chat_template="")
    assert choose_template(named("starchat.bin"), empty).name == "starchat"


def test_the_name_of_the_file_comes_third_then_the_models() -> None:
    made = choose_template(named("starchat-beta.bin", "org/vicuna"), MODEL)
    assert (made.name, made.origin) == ("starchat", "the name starchat-beta.bin")
    made = choose_template(named(model_id="org/vicuna"), MODEL)
    assert (made.name, made.origin) == ("vicuna", "the name org/vicuna")


def test_at_last_it_is_plain() -> None:
    made = choose_template(named(), MODEL)
    assert (made.name, made.origin) == ("plain", PLAIN_ORIGIN)


def test_the_choice_is_made_once() -> None:
    assert choose_template(named(), MODEL) is choose_template(named(), MODEL)


def test_no_setting_leaves_it_to_the_model() -> None:
    assert load_chat_template(None) is None


def test_a_setting_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my.jinja"
    file.write_bytes("{{ messages }}\r\né".encode())
    made = load_chat_template(str(file))
    assert made is not None
    assert (made.name, made.source) == ("my.jinja", "{{ messages }}\r\né")
    assert (made.stop, made.stop_tokens, made.origin) == ((), (), "CHAT_TEMPLATE")


def test_a_setting_that_is_neither_lists_the_names(tmp_path: Path) -> None:
    for setting in ("wizard", str(tmp_path / "none.jinja"), str(tmp_path)):
        with pytest.raises(UsageError) as caught:
            load_chat_template(setting)
        assert str(caught.value).startswith(f"CHAT_TEMPLATE={setting!r} is not allowed")
        assert str(caught.value).endswith(", ".join(FORMATS))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n{% if %}", "line 2: Expected an expression"),
        (b"{{ x | sideways }}", "line 1: No filter named 'sideways'"),
        (b"{% include 'x' %}", "line 1: 'Include' is not available"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (b"x" * 65_537, "it has 65537 characters, more than 65536"),
    ],
)
def test_a_file_that_is_no_template_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "my.jinja"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_chat_template(str(file))
    assert str(caught.value).startswith(f"CHAT_TEMPLATE={file}: {said}")
