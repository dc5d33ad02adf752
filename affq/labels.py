"""The labels that people gave: reports/<study>/labels/<person>.csv, {id, label}. No other module knows these files."""

import pandas as pd

from affq import InputError
from affq.files import slug, write
from affq.records import study_folder


def keep(results, study, person, labels):
    """Write one person's labels, a frame {id, label}, in place of those that were there."""
    folder = study_folder(results, study) / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{slug(person)}.csv", labels.to_csv(index=False, lineterminator="\n"))


def kept(results, study):
    """Read the labels of a study: {person: frame {id, label}}, none where nobody labelled."""
    return {path.stem: read(path) for path in sorted((study_folder(results, study) / "labels").glob("*.csv"))}


def read(path):
    """Read a CSV file as it stands, every cell a string. Raises InputError for what is none."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is no CSV file: {' '.join(str(error).split())}") from None
