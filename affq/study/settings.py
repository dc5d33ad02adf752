"""Read settings from a YAML file and refuse what does not fit: the value, the place (file and line), the choices."""

import reprlib

import yaml

from affq.errors import InputError

SHORT = reprlib.Repr()  # of a value that may be anything
SHORT.maxstring = SHORT.maxother = 80


def read_yaml(path, what="settings", keys="names"):
    """Read a mapping; return it with the line of each of its values, keyed by the path of keys and indices to it.

    what, keys: what it is, and what it has, in messages.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        raise InputError(f"{path}, line {at.line + 1}, column {at.column + 1}: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        raise InputError(f"{path} holds a character that YAML does not allow: {error.reason}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        # PyYAML's own conversions let these through: a 13th month, an integer of 5,000 digits, 1,000 brackets.
        raise InputError(f"{path} holds a value that YAML cannot read ({type(error).__name__}: {error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no {what}: that is a mapping of keys such as {keys}")
    lines, visited = {}, set()

    def visit(node, place):
        lines[place] = node.start_mark.line + 1
        if node in visited:  # an alias may lead into itself, and a few of them to billions of values
            return
        visited.add(node)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if place + (key.value,) in lines:
                    raise InputError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is given twice")
                visit(value, place + (key.value,))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                visit(value, place + (index,))

    visit(node, ())
    return values, lines


class Settings:
    """The values of one file, each with its place for the message; what the file leaves out is as in `defaults`."""

    def __init__(self, path, values, lines, defaults):
        self.path, self.lines = path, lines
        self.known_keys(values, defaults, ())
        self.values = {
            key: {**default, **values.get(key, {})} if isinstance(default, dict) else values.get(key, default)
            for key, default in defaults.items()
        }

    def known_keys(self, values, defaults, place):
        for key, value in values.items():
            if key not in defaults:
                self.refuse("unknown key", key, (*place, key), defaults)
            if isinstance(defaults[key], dict):
                if not isinstance(value, dict):
                    raise InputError(f"{key} in {self.where(key)} must be a mapping with keys of: {', '.join(defaults[key])}")
                self.known_keys(value, defaults[key], (key,))

    def where(self, *place):
        while place not in self.lines:  # within an alias, or a key that is no text
            place = place[:-1]
        return f"{self.path}, line {self.lines[place]}"

    def refuse(self, what, value, place, choices):
        raise InputError(f"{what} {SHORT.repr(value)} in {self.where(*place)}; known: {', '.join(map(str, choices))}")

    def one_of(self, key, choices, what, *inner):
        value = self.values[key][inner[0]] if inner else self.values[key]
        if value not in choices:
            self.refuse(f"unknown {what}", value, (key, *inner), choices)
        return value

    def yes_or_no(self, *place):
        if not isinstance(value := self._at(place), bool):
            raise InputError(f"{place[-1]} in {self.where(*place)} must be true or false; found {SHORT.repr(value)}")
        return value

    def _at(self, place):
        value = self.values
        for key in place:
            value = value[key]
        return value

    def names(self, key, what, choices=None):
        values = self.values[key]
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise InputError(f"{key} in {self.where(key)} must be a list of names, with one at least; found {SHORT.repr(values)}")
        for index, value in enumerate(values):
            if choices is not None and value not in choices:
                self.refuse(f"unknown {what}", value, (key, index), choices)
            if value in values[:index]:
                raise InputError(f"{what} {value!r} in {self.where(key, index)} is named twice")
        return tuple(values)

    def integer(self, least, *place, most=None):
        value = self._at(place)
        if type(value) is not int or value < least or (most is not None and value > most):
            range_words = f"from {least}" + (f" to {most:,}" if most is not None else "")
            raise InputError(
                f"{place[-1]} in {self.where(*place)} must be a whole number {range_words}; found {SHORT.repr(value)}"
            )
        return value

    def between(self, low, high, *place):
        value = self._at(place)
        if type(value) not in (int, float) or not low < value < high:
            raise InputError(f"{place[-1]} in {self.where(*place)} must be between {low} and {high:,}; found {SHORT.repr(value)}")
        return float(value)

    def file(self, key, suffix, packaged):
        """Resolve a packaged name, or a path beside the study file."""
        value = self.values[key]
        if isinstance(value, str) and value in packaged:
            return packaged[value]
        try:
            path = (self.path.parent / str(value)).resolve()
            found = path.suffix.lower() == suffix and path.is_file()
        except (OSError, ValueError):  # no name that a file could have
            found = False
        if not found:
            self.refuse(f"no such {key}", value, (key,), [*packaged, f"or a {suffix} file beside the study"])
        return path
