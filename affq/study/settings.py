"""Read a YAML file as typed settings; what does not fit is one error with the value, the place (file and line), the choices."""

import math
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import getitem, or_
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from affq.errors import InputError
from affq.files import read_text
from affq.models import PRECISIONS

Keys = tuple[str | int, ...]  # the keys and indices that lead to a value

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
OCTAL = re.compile(r"[-+]?0[0-7_]+")  # as YAML 1.1 writes numbers to the base of 8; those with colons are to the base of 60
FILE = "{place}"  # what an error calls a whole file: by its path
SHORT = reprlib.Repr()  # of a value that may be anything
SHORT.maxstring = SHORT.maxother = 80


class Settings(BaseModel):
    """Settings that do not change; a key that is not among them, and a value of another type, is refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


M = TypeVar("M", bound=Settings)


class OneOf:
    """In an Annotated type: one of these names. pydantic's Literal takes only names that are written in the code."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(self.names)


Precision = Annotated[str, OneOf(PRECISIONS), Field(title="precision")]


@dataclass(frozen=True)
class Document:
    """A mapping of settings, and the line of each of its values by the keys and indices to it.

    what: what the settings are of, such as "study". path: of the file; None for settings that are in none. name: what an error
    calls them. words: what YAML took for true or false, as it is written, by its keys.
    """

    what: str
    values: dict
    lines: dict[Keys, int]
    path: Path | None
    name: str = FILE
    words: dict[Keys, str] = field(default_factory=dict)

    def part(self, key: str, what: str) -> "Document":
        """Return what stands under a key, as settings of another kind."""
        lines = {keys[1:]: line for keys, line in self.lines.items() if keys[:1] == (key,)}
        words = {keys[1:]: word for keys, word in self.words.items() if keys[:1] == (key,)}
        name = f"{what} {key!r} in {{place}}"
        # A merged mapping has no line of its own.
        return Document(what, self.values[key], {(): self.lines[()]} | lines, self.path, name, words)

    def where(self, *keys: str | int) -> str | None:
        """Return the file and line of a value; None for settings that are in no file."""
        return None if self.path is None else f"{self.path}, line {self._line(keys)}"

    def _line(self, keys: Keys) -> int:
        while keys not in self.lines:  # within an alias, or what the file leaves out
            keys = keys[:-1]
        return self.lines[keys]

    def read_as(self, model: type[M], **values: Any) -> M:
        """Return the settings as a model, with values that are not in the document.

        Raises InputError for the first line that does not fit.
        """
        try:
            return model.model_validate({**self.values, **values})
        except ValidationError as error:
            problems = error.errors(include_url=False)
        # What is missing has no line: a key that is written wrongly comes first.
        raise self._refusal(model, min(problems, key=lambda p: math.inf if p["type"] == "missing" else self._line(p["loc"])))

    def _refusal(self, model: type[Settings], problem: ErrorDetails) -> InputError:
        """Return the error for what pydantic found; a validator's own InputError has its sentence already."""
        loc, value = problem["loc"], problem["input"]
        place, own = self.where(*loc), problem.get("ctx", {}).get("error")
        if isinstance(own, InputError):
            return own.at(place)
        if problem["type"] == "missing":
            *first, last = model.model_json_schema()["required"]
            whole, remedy = self.path if self.name == FILE else place, f"a {self.what} needs {', '.join(first)} and {last}"
            return InputError(f"{self.name} names no {loc[-1]}", place=whole, remedy=remedy)
        if problem["type"] in ("extra_forbidden", "invalid_key"):
            key, known = loc[-1], _schema_at(model, loc[:-1])["properties"]
            return InputError(f"unknown key {SHORT.repr(key)}", value=key, place=place, choices=known)
        schema, word = _schema_at(model, loc), self.words.get(loc)
        quoted = f"YAML takes {word} for {str(value).lower()}: put it in quotes" if word and isinstance(value, bool) else None
        if "enum" in schema:
            noun = schema["title"].lower()
            sentence = f"unknown {noun} {SHORT.repr(value)}"
            return InputError(sentence, value=value, place=place, choices=schema["enum"], remedy=quoted)
        if isinstance(loc[-1], int):  # a list of names that has something else in it
            loc = loc[:-1]
            place, schema, value = self.where(*loc), _schema_at(model, loc), reduce(getitem, loc, self.values)
        sentence = f"{loc[-1]} in {{place}} must be {_described(schema)}; found {SHORT.repr(value)}"
        return InputError(sentence, value=value, place=place, remedy=quoted)


def _schema_at(model: type[Settings], keys: Keys) -> dict[str, Any]:
    """Return the JSON schema of what stands under these keys: of several kinds the first, and what it has not of the others."""
    schema = whole = model.model_json_schema()
    for key in keys:
        schema = schema["items"] if isinstance(key, int) else schema["properties"][key]
        kinds = [{**schema, **kind} for kind in schema.get("anyOf", [{}])]
        kinds = [whole["$defs"][kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind for kind in kinds]
        schema = reduce(or_, reversed(kinds))
    return schema


def _described(schema: dict[str, Any]) -> str:
    """Return what a JSON schema takes, in words."""
    least, most = schema.get("minimum"), schema.get("maximum")
    to = "" if most is None else f" to {most:,}"
    match schema["type"]:
        case "integer":
            return f"a whole number from {least}{to}"
        case "number" if least is not None:
            return f"a number from {least}{to}"
        case "number":
            return f"between {schema['exclusiveMinimum']} and {schema['exclusiveMaximum']:,}"
        case "string" if "pattern" in schema and "examples" in schema:
            return f"a word such as {schema['examples'][0]}"
        case "object":
            return f"a mapping with keys of: {', '.join(schema['properties'])}"
    return {"boolean": "true or false", "string": "a text", "array": "a list of names, with one at least"}[schema["type"]]


def read_yaml(path: Path, what: str = "settings", keys: str = "names") -> Document:
    """Return the mapping of a YAML file; what, keys: what it is, and what it has, for messages. Raises InputError."""
    text = read_text(path, what)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else path
        raise InputError(f"{{place}}: {error.problem}", place=place) from None
    except yaml.reader.ReaderError as error:
        raise InputError(f"{{place}} holds a character that YAML does not allow: {error.reason}", place=path) from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's own conversions let these through: a 13th month, an integer of 5,000 digits, 1,000 brackets.
        raise InputError(f"{{place}} holds a value that YAML cannot read ({type(error).__name__}: {error})", place=path) from None
    if node is None or not isinstance(values, dict):
        raise InputError(f"{{place}} holds no {what}: that is a mapping of keys such as {keys}", place=path)
    lines, words = _lines(node, path)
    return Document(what, values, lines, path, words=words)


def _lines(root: yaml.Node, path: Path) -> tuple[dict[Keys, int], dict[Keys, str]]:
    """Return the line of each value, and what YAML takes for true or false.

    Raises InputError for a key that is given twice, and for a number that YAML takes for another one than is written.
    """
    lines: dict[Keys, int] = {}
    words: dict[Keys, str] = {}
    visited = set()

    def visit(node: yaml.Node, place: Keys) -> None:
        lines[place] = node.start_mark.line + 1
        if node in visited:  # an alias may lead into itself, and a few of them to billions of values
            return
        visited.add(node)
        if node.tag == "tag:yaml.org,2002:bool" and node.value.lower() not in ("true", "false"):
            words[place] = node.value
        elif node.tag in NUMBERS and (":" in node.value or OCTAL.fullmatch(node.value)):
            where, number = f"{path}, line {lines[place]}", yaml.safe_load(node.value)
            remedy = f"write {number}, or what you mean without a 0 or a colon that YAML reads so; a text stands in quotes"
            raise InputError(f"YAML takes {node.value} for {number} in {{place}}", value=node.value, place=where, remedy=remedy)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if place + (key.value,) in lines:
                    twice = f"{path}, line {key.start_mark.line + 1}"
                    raise InputError(f"{{place}}: {key.value!r} is given twice", value=key.value, place=twice)
                visit(value, place + (key.value,))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                visit(value, place + (index,))

    visit(root, ())
    return lines, words
