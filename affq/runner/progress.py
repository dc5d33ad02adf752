"""Follow a study while it runs, and show it: a live table in a terminal, plain lines elsewhere, events for programs.

An event is a dict with its kind under `event`; seconds, bytes and counts in the unit of their name, None where not known:
  fetching      words
  study_begins  study, runs, to_run, estimate_s
  run           number, runs, run_id, model, precision, stage, texts, texts_wanted, texts_per_s, left_s, memory_bytes, elapsed_s,
                study_left_s
  run_ended     number, runs, run_id, model, precision, status, note, executed, elapsed_s, log
  study_ended   study, ok, runs, elapsed_s
"""

import json
import sys
import threading
import time
from contextlib import contextmanager

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from affq.errors import printable
from affq.runner import estimate

EVERY_S = 0.5  # between two looks
PLAIN_EVERY_S = 30  # between two plain lines on the same stage


@contextmanager
def watched(record, estimate_s, tell):
    """Tell a `run` event at each look, from a thread of its own, while the body executes the run of `record`."""
    ended, began_s, before = threading.Event(), time.monotonic(), record.mark()
    pace = Pace(record.run.study, estimate_s)

    def look():
        while not ended.wait(EVERY_S):
            stage, texts = record.progress(before)
            tell(pace.at(time.monotonic() - began_s, stage, texts) | {"memory_bytes": _memory_bytes()})

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Pace:
    """Turns what is done of a run at which second into speed and time left."""

    def __init__(self, study, estimate_s):
        self.study, self.texts_wanted, self.estimate_s = study, study.texts_wanted, estimate_s
        self.batches = []  # (elapsed_s, texts) as each batch was first seen
        self.timing_since_s = None

    def at(self, elapsed_s, stage, texts):
        """Give {stage, texts, texts_wanted, texts_per_s, left_s, elapsed_s}; speed is known from the second batch on."""
        # Texts that were kept are there while the model still loads.
        if stage != "loading" and texts and (not self.batches or texts > self.batches[-1][1]):
            self.batches.append((elapsed_s, texts))
        if stage != "timing":
            self.timing_since_s = None  # further processes come first, and time as well
        elif self.timing_since_s is None:
            self.timing_since_s = elapsed_s
        speed = None
        if len(self.batches) > 1:
            (first_s, first), (last_s, last) = self.batches[0], self.batches[-1]
            speed = (last - first) / max(last_s - first_s, EVERY_S)
        return {
            "stage": stage,
            "texts": texts,
            "texts_wanted": self.texts_wanted,
            "texts_per_s": speed,
            "left_s": self._left_s(elapsed_s, stage, speed),
            "elapsed_s": elapsed_s,
        }

    def _left_s(self, elapsed_s, stage, speed):
        if stage == "ending":
            return 0
        if speed is None:
            return self.estimate_s and max(self.estimate_s - elapsed_s, 0)
        # A prompt by itself takes at most the time of a batch, token by token.
        timing_s = estimate.timed_tokens(self.study) / self.study.generation.max_new_tokens * self.study.batch / speed
        if stage == "timing":
            return max(timing_s - (elapsed_s - self.timing_since_s), 0)
        last_s, last = self.batches[-1]
        return max((self.texts_wanted - last) / speed - (elapsed_s - last_s), 0) + timing_s


def _memory_bytes():
    """Give the resident memory of the largest process below this one, the run's; None if it is not there yet."""
    resident = []
    for child in psutil.Process().children(recursive=True):
        try:
            resident.append(child.memory_info().rss)
        except psutil.Error:
            continue  # it has just ended
    return max(resident, default=None)


def reporter(as_json, quiet):
    """Give what shows the events: a context manager whose value takes them one by one."""
    if as_json:
        return _Json()
    if quiet:
        return _Lines(only_failures=True)
    return _Table() if sys.stdout and sys.stdout.isatty() else _Lines(only_failures=False)


class _Json:
    """One JSON object a line on standard output, and nothing else there."""

    def __enter__(self):
        return lambda event: print(json.dumps(event), flush=True)

    def __exit__(self, *_):
        pass


class _Lines:
    """Plain lines: a run's stages, its texts from time to time, how it ended."""

    def __init__(self, only_failures):
        self.only_failures = only_failures
        self.said = (None, None, 0)  # run, stage, when

    def __enter__(self):
        return self.show

    def __exit__(self, *_):
        pass

    def show(self, event):
        failed = event["event"] == "run_ended" and event["status"] == "failed"
        if not self.only_failures and event["event"] == "run":
            run, stage, when_s = self.said
            here = (event["run_id"], event["stage"])
            if here == (run, stage) and time.monotonic() - when_s < PLAIN_EVERY_S:
                return
            self.said = (*here, time.monotonic())
            words = [
                f"[{event['number']}/{event['runs']}] {event['model']} {event['precision']}: {event['stage']}",
                *details(event),
            ]
            print(printable(", ".join(words)), flush=True)
        elif failed or not self.only_failures:
            print(printable(sentence(event)), flush=True)


class _Table:
    """A table that is drawn again in place: a line a run, and the total."""

    def __enter__(self):
        self.rows, self.total = {}, ""
        self.live = Live(console=Console(highlight=False), refresh_per_second=4)
        return self.show

    def __exit__(self, *_):
        self.live.stop()

    def show(self, event):
        kind = event["event"]
        if kind in ("fetching", "study_begins"):
            self.live.console.print(Text(printable(sentence(event))))
            if kind == "study_begins":  # from here on: while weights are fetched, the hub's own bars have the screen
                self.live.start()
        elif kind == "run":
            self.rows[event["number"]] = (event, event["stage"], details(event))
            left = event["study_left_s"]
            self.total = "" if left is None else f"{estimate.words(left)} left in all"
        elif kind == "run_ended":
            took = [f"{event['elapsed_s']:.0f} s"] if event["executed"] else ["was done before"]
            log = [f"log: {event['log']}"] if event["status"] == "failed" else []
            self.rows[event["number"]] = (event, event["status"], [*took, *filter(None, [event["note"]]), *log])
        else:
            self.total = sentence(event)
        self.live.update(self._table())

    def _table(self):
        table = Table.grid(padding=(0, 2))
        for number, (event, state, words) in sorted(self.rows.items()):
            run = f"[{number}/{event['runs']}] {event['model']} {event['precision']}"
            table.add_row(Text(printable(run)), Text(state), Text(printable(", ".join(words))))
        return Group(table, Text(printable(self.total)))


def details(event):
    """Say of a `run` event what is known: texts, speed, time left, memory."""
    if event["stage"] == "starting":
        return []
    words = [f"{event['texts']} of {event['texts_wanted']} texts"] if event["texts"] else []
    if event["texts_per_s"] and event["stage"] == "generating":
        words.append(f"{event['texts_per_s']:.2g} texts/s")
    if event["left_s"] is not None:
        words.append(f"{estimate.words(event['left_s'])} left")
    if event["memory_bytes"]:
        words.append(f"{event['memory_bytes'] / 1e9:.1f} GB resident")
    return words


def sentence(event):
    """Say an event in one line."""
    kind = event["event"]
    if kind == "fetching":
        return event["words"]
    if kind == "study_begins":
        guess = event["estimate_s"]
        time_words = "how long is not known yet on this device" if guess is None else f"{estimate.words(guess)}, roughly"
        doing = f"{event['to_run']} of {event['runs']} runs are to be done" if event["to_run"] else "every run is there"
        return f"Study {event['study']}: {doing}" + (f": {time_words}." if event["to_run"] else ".")
    if kind == "study_ended":
        return f"{event['ok']} of {event['runs']} runs are done, {event['elapsed_s']:.0f} s"
    how = f"{event['elapsed_s']:.0f} s" if event["executed"] else "not done again"
    log = f"; log: {event['log']}" if event["status"] == "failed" else ""
    return f"{_run(event)}: {event['status']}, {how}" + (f" ({event['note']}{log})" if event["note"] else "")


def _run(event):
    return f"[{event['number']}/{event['runs']}] {event['model']} {event['precision']}"
