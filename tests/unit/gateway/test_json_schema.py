"""JSON schemas of clients: which can be kept to, and what becomes of the others."""

import json
from typing import Any

import jsonschema
import pytest

from gateway.answer.json_schema import check_schema, prepared
from gateway.errors import ApiError
from tests.made_schemas import schemas

TEXT = {"type": "string"}
PERSON = {"type": "object", "properties": {"name": TEXT}, "required": ["name"]}
CLOSED = {**PERSON, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "becomes"),
    [
        (PERSON, CLOSED),
        ({"type": "object"}, {"type": "object"}),
        ({**PERSON, "additionalProperties": True}, {**PERSON, "additionalProperties": True}),
        ({**PERSON, "patternProperties": {}}, {**PERSON, "patternProperties": {}}),
        ({"type": "array", "items": PERSON}, {"type": "array", "items": CLOSED}),
        ({"items": [PERSON, True]}, {"items": [CLOSED, True]}),
        ({"anyOf": [PERSON, TEXT]}, {"anyOf": [CLOSED, TEXT]}),
        ({"allOf": [PERSON]}, {"allOf": [CLOSED]}),
        ({"$ref": "#/$defs/p", "$defs": {"p": PERSON}},
         {"$ref": "#/$defs/p", "$defs": {"p": CLOSED}}),
        ({"additionalProperties": PERSON}, {"additionalProperties": CLOSED}),
        # A property whose name is that of a keyword.
        ({"properties": {"properties": {"properties": {"allOf": TEXT}}}},
         {"properties": {"properties": {"properties": {"allOf": TEXT},
                                        "additionalProperties": False}},
          "additionalProperties": False}),
    ],
)  # fmt: skip
def test_objects_that_list_their_properties_have_no_others(schema: Any, becomes: Any) -> None:
    before = json.dumps(schema)
    assert prepared(schema) == becomes
    assert json.dumps(schema) == before, "the client's own is as it was"


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [PERSON, {"properties": {"age": {}}}]},
        {**PERSON, "anyOf": [{"properties": {"age": {}}}, {}]},
        {**PERSON, "$ref": "#/$defs/p", "$defs": {"p": {"properties": {"age": {}}}}},
        {"$ref": "#/$defs/p", "anyOf": [{}], "$defs": {"p": PERSON}},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "minProperties": 2, "required": ["a", "b"]},
    ],
)
def test_objects_that_several_places_speak_of_stay_open(schema: Any) -> None:
    assert prepared(schema) == schema


def test_formats_that_are_not_known_are_notes() -> None:
    formats = {"a": {"format": "binary"}, "b": {"format": "date"}, "format": {"format": "x"}}
    properties = prepared({"properties": formats})["properties"]
    assert properties == {"a": {}, "b": {"format": "date"}, "format": {}}


def test_what_is_prepared_allows_no_more_than_the_schema() -> None:
    for schema in schemas(200):
        jsonschema.Draft202012Validator.check_schema(prepared(schema))
        assert prepared(prepared(schema)) == prepared(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 1},
        {"minProperties": 2, "required": ["a", "b"]},
        {"properties": {"minProperties": {"const": 5}, "exclusiveMinimum": True}},
        {"exclusiveMinimum": 3},
    ],
)
def test_what_can_be_kept_to_is_not(schema: Any) -> None:
    check_schema(schema, "x")


@pytest.mark.parametrize("control", ["\x07", "\x0b", "\x1f", "\x7f"])
def test_characters_that_are_not_written_are_in_no_name_and_no_value(control: str) -> None:
    for schema in (
        {"const": f"a{control}"},
        {"enum": ["a", {"b": [control]}]},
        {"const": {control: 1}},
        {"items": {"properties": {f"a{control}": TEXT}}},
    ):
        with pytest.raises(ApiError, match="no control characters"):
            check_schema(schema, "x")
    check_schema({"description": control, "properties": {"a": {"default": control}}}, "x")


def test_those_that_are_written_with_a_letter_are_written() -> None:
    text = "\b\f\n\r\t\x80\u2028"
    check_schema({"const": text, "enum": [text], "properties": {text: TEXT}}, "x")
