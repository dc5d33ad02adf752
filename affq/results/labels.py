"""The labels that people gave: reports/<study>/labels/<person>.csv, {id, label}. No other module knows these files."""

import csv

import pandas as pd

from affq.errors import InputError
from affq.files import slug, write
from affq.results.record import study_folder


def people(paths):
    """Name the person of each file by the file: {person: path}. Raises InputError for two files of one name.

    Names that differ by capitals alone are one: some systems' files are.
    """
    named = {}
    for path in paths:
        person = slug(path.stem)
        if twice := [former for other, former in named.items() if other.casefold() == person.casefold()]:
            raise InputError(f"{path} and {twice[0]} would both be the labels of {person}; give each file its person's name")
        named[person] = path
    return named


def keep(results, study, person, labels):
    """Write one person's labels, a frame {id, label}, in place of those that were there. person: as `people` names them."""
    folder = study_folder(results, study) / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{person}.csv", labels.to_csv(index=False, lineterminator="\n"))


def kept(results, study):
    """Read the labels of a study: {person: frame {id, label}}, none where nobody labelled."""
    return {path.stem: read(path) for path in sorted((study_folder(results, study) / "labels").glob("*.csv"))}


def read(path):
    """Read a CSV file as it stands, every cell a string. Raises InputError for what is none, and for cells without a column."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            rows, columns = list(reader), reader.fieldnames or [""]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {error}") from None
    if len(columns) == 1:
        separators = [name for sign, name in ((";", "semicolons"), ("\t", "tabs")) if sign in columns[0]]
        remedy = f"; it is separated by {separators[0]}: save it with commas" if separators else ""
        raise InputError(f"{path} is no CSV file of several columns{remedy}")
    for number, row in enumerate(rows, 1):
        if any(row.pop(None, ())):  # a comma at the end of each row is harmless
            raise InputError(f"{path}, record {number} has more cells than columns; put a text with a comma in double quotes")
    return pd.DataFrame(rows, columns=columns, dtype=str)
