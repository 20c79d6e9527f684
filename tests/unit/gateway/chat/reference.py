"""Jinja as it is, without bounds and marks; conversations and templates to compare with it."""

import json
from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.chat.messages import ChatMessage
from shared.messages import ModelInfo

SPECIAL = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>", "[INST]", "<|end",
    "▁end▁",
)  # fmt: skip
MODEL = ModelInfo(
    "llama",
    n_ctx=2048,
    n_vocab=300,
    max_token_bytes=32,
    bos_token="<s>",
    eos_token="</s>",
    special_tokens=SPECIAL,
)

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template in SmolLM2's file."""

# What templates of models do with a conversation, in a few lines each.
IDIOMS = (
    SMOLLM2,
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt and not tools %}<|assistant|>{% endif %}",
    "{%- set ns = namespace(last=messages|length - 1, text='') %}"
    "{%- for message in messages[::-1] %}"
    "{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if message.role == 'user' and not message.content.startswith('<s>') and ns.last > 0 %}"
    "{%- set ns.last = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- set content = message.content %}{%- set thought = '' %}"
    "{%- if message.role == 'assistant' and '</s>' in content %}"
    "{%- set thought = content.split('</s>')[0].rstrip('\n').split('<s>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</s>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<|im_start|>' + message.role + '\n<think>\n' + thought.strip('\n') + content }}"
    "{%- else %}{{- '<|im_start|>' ~ message.role ~ '\n' ~ content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}",
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content']|trim %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set system = '' %}{%- set turns = messages %}"
    "{%- endif %}{{- bos_token }}{%- for m in turns %}"
    "{%- if loop.first and system %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
    "{%- elif m.role in ['user', 'tool'] %}{{- '[INST] ' ~ m.content | trim ~ '[/INST]' }}"
    "{%- else %}{{- ' ' + m['content'] + eos_token }}{%- endif %}{%- endfor %}",
    "{% macro turn(role, text, end='<|end|>') %}<|{{ role }}|>{{ caller() if caller }}{{ text }}"
    "{{ end }}{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}"
    "{% call turn('user', 'x', end=eos_token) %}{{ messages | length }}{% endcall %}",
    "{% set names = {'user': 'USER', 'assistant': 'BOT'} %}{% for m in messages %}"
    "{{ names[m.role] or m.role | capitalize }} {{ names.get(m.role, m.role.title()) }}: "
    "{{ m.content | replace('\r\n', '\n') | replace('x', eos_token) }}"
    "{{ loop.cycle('<s>', '') }}{% endfor %}",
    "{{ messages | map(attribute='role') | join('<s>') }}{{ messages | map(attribute='content') "
    "| map('trim') | list | join('|') }}{{ (messages | selectattr('role', 'equalto', 'user') "
    "| list | last).content | default('', true) }}{{ messages | rejectattr('role', 'in', "
    "['user', 'tool']) | map(attribute='role') | unique | sort | list }}"
    "{{ messages | map(attribute='content') | select('string') | list | length }}",
    "{{ messages[-1] | tojson }}{{ messages | tojson(indent=2) }}{{ (1, 2.5, none, true) }}"
    "{{ 'a' * 3 + '<|end|>' }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ -3 | abs }}"
    "{{ '12' | int + 1 }}",
    "{% for m in messages recursive %}{{ loop.depth }}{{ m.role }}{% if loop.depth < 2 %}"
    "{{ loop([m, m]) }}{% endif %}{% else %}none{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{% if loop.index > 2 %}{% break %}{% endif %}"
    "{% if not m.content %}{% continue %}{% endif %}{{ loop.index }}{{ m.content[1:-1] }}"
    "{{ m.content[0] }}{{ loop.changed(m.role) }}{{ loop.previtem.role if loop.previtem }}"
    "{% endfor %}",
    "{% set text %}<s>{% for m in messages %}{{ m.content }}{% endfor %}</s>{% endset %}"
    "{{ text | upper }}{{ text.count('<s>') }}{{ text.find('</s>') }}{{ text == text | string }}"
    "{% filter trim %}  {{ text.strip('</s>') }} {% endfilter %}{{ text | indent(2) }}"
    "{% with a = text.partition('s'), b = text.rsplit('s', 1) %}{{ a | join('+') }}{{ b[0] }}"
    "{% endwith %}{{ text.replace('<', '[').removesuffix('>').removeprefix('[') }}",
    "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}"
    "{% for pair in messages[0] | dictsort %}{{ pair[0] }}{% endfor %}{{ 'role' in messages[0] }}"
    "{{ messages[0].missing is defined }}{{ messages[0]['missing'] is none }}"
    "{{ messages is iterable and messages is not string and messages[0] is mapping }}"
    "{{ (messages | length) is odd }}{{ 4 is divisibleby 2 }}{{ 1 < 2 <= 2 > 1 }}",
)

ROLES = ("system", "user", "assistant", "tool")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def rendered(source: str, messages: Sequence[ChatMessage]) -> str:
    """What transformers would make of a conversation with ``MODEL``."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _raise_exception
    variables: dict[str, Any] = {"add_generation_prompt": True, "tools": None, "documents": None}
    return environment.from_string(source).render(
        messages=messages, bos_token=MODEL.bos_token, eos_token=MODEL.eos_token, **variables
    )
