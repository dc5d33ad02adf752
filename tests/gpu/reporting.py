"""A plugin of pytest: write each test's outcome as a line of JSON to the file that GPU_TESTS names, as soon as it is known."""

import json
import os


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext.strip()
        line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2), "note": words[-300:]}
        with open(os.environ["GPU_TESTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
