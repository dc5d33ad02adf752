"""The labels that people gave: reports/<study>/labels/<person>.csv, {id, label}. No other module knows these files."""

import pandas as pd

from affq.errors import InputError
from affq.files import other_separator, read_csv, slug, write
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
    columns, records = read_csv(path)
    if len(columns) < 2:
        raise InputError("{place} is no CSV file of several columns", place=path, remedy=other_separator(columns))
    rows = []
    for number, (_, cells) in enumerate(records, 1):
        if any(cells[len(columns) :]):  # a comma at the end of each row is harmless
            remedy = "put a text with a comma in double quotes"
            raise InputError("{place} has more cells than columns", place=f"{path}, record {number}", remedy=remedy)
        rows.append((cells + [""] * len(columns))[: len(columns)])
    return pd.DataFrame(rows, columns=columns, dtype=str)
