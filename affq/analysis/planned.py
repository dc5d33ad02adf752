"""What affq plan shows of each run: why it is to be run, the memory it is predicted to take, the peak that was measured."""

from collections.abc import Iterable
from typing import Any

from affq.analysis.costs import measured
from affq.models import memory
from affq.runner import planning

COLUMNS = ("run_id", "model", "precision", "engine", "status", "reason", "to_run")


def planned_runs(runs: Iterable[planning.Planned], machine: memory.Machine | None) -> list[dict[str, Any]]:
    """Return a row a run: COLUMNS, memory.planned, and measured_peak_bytes: None where the run is not complete, or it is unknown.

    machine: memory.at_hand.
    """
    return [
        {column: getattr(run, column) for column in COLUMNS}
        | memory.planned(run.run, machine)
        | {"measured_peak_bytes": measured(run.record)["peak_bytes"] if run.status.has_figures else None}
        for run in runs
    ]
