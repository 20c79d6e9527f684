"""Chat templates in the manner of well-known families, and conversations for them.

Each is written anew, and does what templates of its family do: the same loops, tests, filters and
methods, on other words.
"""

from typing import Any

# Headers with the date, tools as JSON in the first message, calls as JSON.
LLAMA_3 = r"""
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y')[:0] %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Functions, each as JSON:\n\n" }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\n\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time, please!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
# Tools in tags, results grouped into a user's turn, thoughts only of the last turns.
QWEN_3 = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "# Functions\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\n</tools>\nA call:\n<tool_call>\n{...}\n</tool_call><|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string
        and not(message.content.startswith('<tool_response>')
        and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
                {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""
# Roles must alternate; tools before the last user's message.
MISTRAL = r"""
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("user and assistant must take turns: " + message.role) }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST]" + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS][" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}{{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("an id of nine letters, please") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content|string + "}" }}{{- "[/TOOL_RESULTS]" }}
    {%- else %}{{- raise_exception("only user, assistant and tool after the first") }}{%- endif %}
{%- endfor %}
"""
# The system text goes into the first user's turn; ``model`` for ``assistant``.
GEMMA = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("turns of user and model, please") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}
    {%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("what is this?") }}{%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}
"""
# A macro that turns a schema's types into a programming language's.
HERMES = r"""{%- macro json_to_type(spec) %}
{%- set names = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}
{%- if names[spec.type] is defined %}{{- names[spec.type] }}
{%- elif spec.type == "array" and spec['items'] is defined %}{{- "list[" + json_to_type(spec['items']) + "]" }}
{%- elif spec.type == "object" %}
    {%- if spec.additionalProperties is defined %}{{- "dict[str, " + json_to_type(spec.additionalProperties) + "]" }}
    {%- else %}{{- "dict" }}{%- endif %}
{%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{{- bos_token }}{{- '<|im_start|>system\n' }}
{%- for tool in tools or [] %}
    {%- if tool.function is defined %}{%- set tool = tool.function %}{%- endif %}
    {{- '{"type": "function", "function": {"name": "' + tool.name + '", "description": "' + tool.name + '(' }}
    {%- for name, fields in (tool.parameters.properties or {})|items %}
        {{- name + ": " + json_to_type(fields) }}
        {%- if not loop.last %}{{- ", " }}{%- endif %}
    {%- endfor %}
    {{- ")" }}{{- " - " + (tool.description or '') + "\n\n" }}
    {%- for name, fields in (tool.parameters.properties or {})|items %}
        {%- if loop.first %}{{- "    Args:\n" }}{%- endif %}
        {{- "        " + name + "(" + json_to_type(fields) + "): " + (fields.description|default(''))|trim }}
    {%- endfor %}
    {{- '", "parameters": ' }}
    {%- if tool.parameters.properties | length == 0 %}{{- "{}" }}{%- else %}{{- tool.parameters|tojson }}{%- endif %}
    {{- "}" }}{%- if not loop.last %}{{- "\n" }}{%- endif %}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- for message in messages %}
    {%- if message.role == "user" or message.role == "system" or (message.role == "assistant" and message.tool_calls is not defined) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {{- '\n<tool_call>\n' }}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments|tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem and loop.previtem.role != "tool" %}{{- '<|im_start|>tool\n' }}{%- endif %}
        {{- '<tool_response>\n' }}{{- message.content }}
        {%- if not loop.last %}{{- '\n</tool_response>\n' }}{%- else %}{{- '\n</tool_response>' }}{%- endif %}
        {%- if not loop.last and loop.nextitem.role != "tool" %}{{- '<|im_end|>' }}
        {%- elif loop.last %}{{- '<|im_end|>' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
# State over the whole conversation in a namespace, thoughts cut off what is past.
DEEPSEEK = r"""{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}
{%- else %}{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}{%- endif %}
{%- endif %}
{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}
{%- if message['role'] == 'assistant' and 'tool_calls' in message %}
{%- set ns.is_tool = false -%}
{%- for tool in message['tool_calls'] %}
{%- if not ns.is_first %}
{{'<|Assistant|>' + (message['content'] or '') + '<|calls|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\n```json\n' + (tool['function']['arguments']|tojson) + '\n```'}}
{%- set ns.is_first = true -%}
{%- else %}{{'\n' + '<|calls|>' + tool['function']['name']}}{%- endif %}
{%- endfor %}{{'<|end|>'}}
{%- endif %}
{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}
{%- set content = message['content'] %}
{%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{'<|Assistant|>' + content + '<|end|>'}}
{%- endif %}
{%- if message['role'] == 'tool' %}
{%- set ns.is_tool = true -%}
{%- if ns.is_output_first %}{{'<|outputs|>' + message['content'] + '<|/output|>'}}{%- set ns.is_output_first = false %}
{%- else %}{{'\n<|output|>' + message['content'] + '<|/output|>'}}{%- endif %}
{%- endif %}
{%- endfor -%}
{%- if ns.is_tool %}{{'<|/outputs|>'}}{%- endif %}
{%- if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|>'}}{% endif %}
"""
# Blocks for training, whole lines trimmed, loop controls.
PHI = r"""{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}
{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}
{%- elif message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}
{%- elif message['role'] == 'assistant' %}
    {% generation %}
{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}
    {%- endgeneration %}
{%- else %}{% continue %}{% endif %}
{% if loop.index > 8 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\n' }}
{%- else %}
{{ eos_token }}
{%- endif %}
"""
# Channels, a macro that calls itself, joined lists.
HARMONY = r"""{%- macro render_type(spec, is_required=true) -%}
    {%- if spec.type == "array" -%}{{- render_type(spec['items'] or {}) + "[]" -}}
    {%- elif spec.enum is defined and spec.enum|length > 0 -%}{{- '"' + spec.enum|join('" | "') + '"' -}}
    {%- elif spec.type is not string and spec.type is iterable -%}{{- spec.type | join(" | ") -}}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- "{" }}{%- for name, field in spec.properties.items() -%}
            {{- name }}{%- if name not in (spec.required or []) -%}?{%- endif -%}: {{ render_type(field) }}
            {%- if not loop.last %}, {% endif -%}
        {%- endfor -%}{{- "}" }}
    {%- else -%}{{- spec.type or "any" -}}{%- endif -%}
{%- endmacro -%}
<|start|>system<|message|>Channels: {{ ["analysis", "final"] | join(", ") | upper }}.
{%- if tools %}{{ "\n# Tools\n" }}
{%- for tool in tools %}{%- set tool = tool.function %}
{{- "// " + (tool.description | default("none", true)) + "\ntype " + tool.name + " = " + render_type(tool.parameters) + ";\n" }}
{%- endfor %}{%- endif %}<|end|>
{%- set ns = namespace(last_call=none) %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and message.tool_calls is defined -%}
        {%- set call = message.tool_calls[-1].function %}{%- set ns.last_call = call.name %}
        {{- "<|start|>assistant to=functions." + call.name + "<|message|>" + call.arguments|tojson + "<|call|>" }}
    {%- elif message.role == 'tool' -%}
        {%- if ns.last_call is none %}{{- raise_exception("a result without a call") }}{%- endif %}
        {{- "<|start|>functions." ~ ns.last_call ~ "<|message|>" ~ message.content|tojson ~ "<|end|>" }}
    {%- else -%}
        {{- "<|start|>%s<|message|>" | replace("%s", message.role) + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
"""
# Dictionaries of names, string methods, slices, conditional expressions.
GRANITE = r"""{%- set names = {'user': 'USER', 'assistant': 'BOT', 'system': 'SYSTEM'} %}
{%- for message in messages %}
{%- set name = names.get(message.role, message.role.title()) %}
{{- name.ljust(0) if false else name }}: {{ message.content.strip() | replace('\r\n', '\n') }}
{%- if message.content[-1:] == '?' %} (asked){% endif %}
{%- if message.content | length > 20 %} ({{ message.content.split() | length }} words){% endif %}
{{- '\n' * (2 if loop.revindex0 else 1) }}
{%- endfor %}
{{- (messages | map(attribute='role') | unique | sort | join('+')).upper() }}
{{- messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | first | default('-') }}
{{- ' ' ~ (1, 2.5, true, none) }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ -3 | abs }} {{ '12' | int + 1 }}
{{- 'odd' if messages | length is odd else 'even' }} {{ messages[0].missing is defined }} {{ 'é' in 'née' }}
"""
# The conversation as JSON.
FUNCTIONARY = r"""{{ messages | tojson }}{{ tools | tojson(indent=2) }}
{%- for key, value in messages[0].items() %}|{{ key }}={{ value }}{% endfor %}
{%- for pair in messages[-1] | dictsort %}|{{ pair[0] }}{% endfor %}
{{- messages[-1] }}{{ '{}: {}'.format('a', 1) }}{{ "%05d"[0:1] }}"""
# ``set`` blocks, filters on them, ``with``, recursion through calls.
COMMAND = r"""{% set preamble %}
Be useful.
{%- for message in messages if message.role == 'system' %} {{ message.content }}{% endfor %}
{% endset %}
{{- preamble | trim | indent(2) }}
{% macro turn(role, text, end='<|END_OF_TURN|>') -%}
<|START_OF_TURN|>{{ {'user': 'U', 'assistant': 'C'}[role] | default('S', true) }}{{ caller() if caller else '' }}{{ text }}{{ end }}
{%- endmacro %}
{%- for message in messages %}{{ turn(message.role, message.content) }}{% endfor %}
{% call turn('user', 'x', end='') %}-{{ messages | length }}-{% endcall %}
{% filter upper %}done {{ bos_token }}{% endfilter %}
{%- with n = messages | length, text = preamble.split('u') %}{{ n }}{{ text | join('/') }}{% endwith %}
"""
TEMPLATES = {
    name.lower(): source for name, source in dict(globals()).items() if name.isupper()
}  # fmt: skip

SYSTEM = {"role": "system", "content": " Be brief. "}
USER = {"role": "user", "content": "Hi there, what is the weather <b>?"}
REPLY = {"role": "assistant", "content": "Hello 日本."}
THOUGHT = {"role": "assistant", "content": "<think>\nHm & so.\n</think>\n\nIt rains."}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Größe <i> & 'so' \"on\""},
        "days": {"type": "array", "items": {"type": "integer"}},
        "unit": {"type": ["string", "null"], "enum": ["c", "f"]},
    },
    "required": ["city"],
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS},
}
NOW = {
    "type": "function",
    "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
}


def called(*names: str, content: str = "") -> dict[str, Any]:
    calls = [
        {"id": f"call{n:05}", "type": "function",
         "function": {"name": name, "arguments": {"city": "Köln", "days": [1, 2.5, None, True]}}}
        for n, name in enumerate(names)
    ]  # fmt: skip
    return {"role": "assistant", "content": content, "tool_calls": calls}


def result(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": "call00000"}


CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a question": ([USER], []),
    "a system message": ([SYSTEM, USER], []),
    "a chat": ([SYSTEM, USER, REPLY, {"role": "user", "content": "Bye\r\n\r\nnow"}], []),
    "thoughts": ([USER, THOUGHT, USER], []),
    "thoughts at the end": ([USER, THOUGHT], []),
    "tools": ([USER], [WEATHER, NOW]),
    "tools and a system message": ([SYSTEM, USER], [WEATHER]),
    "a call": ([USER, called("weather"), result('{"t": 11}'), REPLY, USER], [WEATHER]),
    "two calls": (
        [USER, called("weather", "now", content="Let me see."), result("11°"), result("12:00")],
        [WEATHER, NOW],
    ),
    "calls without tools": ([USER, called("now"), result("12:00")], []),
    "a call without a result": ([USER, called("weather")], [WEATHER]),
    "odd roles": ([USER, USER, SYSTEM, REPLY, REPLY], []),
    "an assistant first": ([REPLY, {**USER, "name": "Ann"}], []),
    "empty": ([{"role": "user", "content": ""}, {"role": "assistant", "content": ""}], []),
    "a result alone": ([result("12:00")], []),
}
