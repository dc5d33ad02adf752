"""Sentences about how runs were made: hardware, what makes the report again."""

from collections.abc import Sequence

import pandas as pd

from affq.errors import printable
from affq.results import Snapshot, Status
from affq.study import Study


def hardware(provenance: pd.DataFrame) -> str:
    """Return what the runs were executed on, in plain text. provenance: Results.provenance."""
    rows = provenance.drop_duplicates(["field", "value"])
    about = rows.groupby("field")["value"].agg(", ".join)
    several = f"{about['devices']} × " if about.get("devices", "1") != "1" else ""
    parts = [several + about["device_name"]] if "device_name" in about else []
    parts += [about["system"]] if "system" in about else []
    parts += [f"{int(about['memory_bytes']) / 1e9:,.0f} GB"] if about.get("memory_bytes", "").isdigit() else []
    return printable(", ".join(parts))


def reproduce(study: Study, records: Sequence[Snapshot]) -> str:
    """Return what to type to make a report again, and with what the runs were made."""
    complete = [record for record in records if record.complete]
    software = [record.about()["software"] for record in complete]
    made = dict.fromkeys(f"affq {row['affq']}" + (f" at commit {row['commit']}" if row["commit"] else "") for row in software)
    name = study.source.replace("\\", "/").rpartition("/")[2]
    what = "file" if name.lower().endswith((".yaml", ".yml")) else "packaged study"
    stale = any(record.state().status == Status.STALE for record in complete)
    same = (
        "Some runs are stale: other versions, or other generating code, made them than wrote this report."
        if stale
        else "The same study on the same machine and versions gives the same texts, byte for byte; times vary."
    )
    return (
        f"The runs were made with {' and '.join(made)}, the versions above, and the {what} `{name}`:\n\n"
        f"```sh\naffq run {name}\naffq report {name}\n```\n\n{same}"
    )
