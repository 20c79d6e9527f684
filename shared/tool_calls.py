"""How models write calls of tools.

One way is used with all models, that of Hermes and Qwen: JSON between ``<tool_call>`` and
``</tool_call>``. A grammar holds a model to the form, so that reading it is a matter of finding
places in a text.
"""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL_BEGIN = OPEN + '\n{"name": '
CALL_ARGUMENTS = ', "arguments": '
CALL_END = "}\n" + CLOSE
"""A call is `CALL_BEGIN`, its name as JSON, `CALL_ARGUMENTS`, an object as JSON, `CALL_END`."""
