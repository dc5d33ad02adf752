"""What the explorer shows: a study's texts, and HTML in which every text is data. No widgets.

A run that is missing, failed or not ended is simply not there.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pandas as pd

from affq.analysis import NAMED, Results, annotation, choose, disagreement
from affq.errors import InputError
from affq.inference import KEY
from affq.report import escaped, words
from affq.results import Note
from affq.study import run_label

Request = tuple[str, str, int]  # prompt id, emotion, sample
RUN_TEXTS = 100  # of one run on a page
STYLE = """<style>
.affq {font: 14px/1.45 var(--jp-ui-font-family, sans-serif); color: var(--jp-ui-font-color1, #222)}
.affq .runs {display: flex; gap: 12px; overflow-x: auto; align-items: stretch}
.affq article {flex: 1 0 15em; max-width: 42em; padding: 8px 12px; border: 1px solid var(--jp-border-color2, #ccc)}
.affq h4 {margin: 0 0 2px; font-size: 15px}
.affq p {margin: 4px 0; overflow-wrap: anywhere}
.affq .text {white-space: pre-wrap}
.affq small {color: var(--jp-ui-font-color2, #555)}
.affq mark {background: #fbe3a4; color: #222; border-radius: 2px}
.affq del {color: #b3261e; text-decoration: none}
.affq .bars {display: grid; grid-template-columns: max-content 6em max-content; gap: 0 6px; align-items: center; font-size: 11px;
  line-height: 14px}
.affq .bars i {display: block; height: 8px; background: #9a9a9a}
.affq .bars .asked {font-weight: bold}
.affq .bars i.asked {background: #0173b2}
.affq table {border-collapse: collapse; margin: 4px 0}
.affq td:not(.text) {white-space: nowrap}
.affq .list {max-height: 36em; overflow-y: auto}
.affq td, .affq th {padding: 3px 10px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid
  var(--jp-border-color2, #ccc)}
</style>"""


@dataclass(frozen=True)
class Explored:
    """A study's results, with its texts as disagreement.texts gives them, loaded once."""

    results: Results
    texts: pd.DataFrame


def load(study: str | Path, results: str | Path) -> Explored:
    """Return a study's complete runs. Raises InputError if there is none."""
    loaded = Results(study, results)
    return Explored(loaded, disagreement.texts(loaded))


def chosen(texts: pd.DataFrame, **values: Sequence[str]) -> pd.DataFrame:
    """Return the texts that have one of the values in each column that is named: model, precision, engine, emotion, prompt_id."""
    wanted = np.ones(len(texts), dtype=bool)
    for column, allowed in values.items():
        wanted &= texts[column].isin(allowed).to_numpy()
    return texts[wanted]


def marked(text: str, baseline: str) -> tuple[str, float]:
    """Return a text as HTML, escaped: the words that are not the baseline's marked, ⋯ where it has lost some; and their share.

    Words are what white space parts; they are matched as difflib does. The share is of the text's words, 0 for an empty text.
    """
    begun = text.lstrip()
    words, spaces = text.split(), re.findall(r"\s+|\Z", begun)
    parts, changed = [escaped(text[: len(text) - len(begun)])], 0
    for kind, lost, gone, start, end in SequenceMatcher(None, old := baseline.split(), words, autojunk=False).get_opcodes():
        shown = "".join(escaped(word + space) for word, space in zip(words[start:end], spaces[start:end], strict=True))
        if kind == "delete":
            shown = f'<del title="{escaped(" ".join(old[lost:gone]))}">⋯</del> '
        elif kind != "equal":
            changed += end - start
            shown = f"<mark>{shown.rstrip()}</mark>{shown[len(shown.rstrip()) :]}"
        parts.append(shown)
    return "".join(parts), changed / max(len(words), 1)


def _bars(probabilities: Mapping[str, float], asked: str) -> str:
    rows = []
    for emotion, p in probabilities.items():
        kind = ' class="asked"' if emotion == asked else ""
        rows.append(f"<span{kind}>{escaped(emotion)}</span><span><i{kind} style='width:{p:.0%}'></i></span><span>{p:.2f}</span>")
    return f'<div class="bars">{"".join(rows)}</div>'


def _judged(asked: str, judged: str | None, probabilities: Mapping[str, float] | None) -> str:
    if probabilities is None:
        return "–"
    right = "" if asked == disagreement.NO_EMOTION else "✓ " if judged == asked else "✗ "
    return f"{right}{escaped(judged)}"


def _page(content: str) -> str:
    return f'{STYLE}<div class="affq">{content}</div>'


def side_by_side(explored: Explored, texts: pd.DataFrame, request: Request | None) -> str:
    """Return the texts of one request as HTML, a column a run, each against its model's baseline on its engine.

    texts: the chosen ones. A baseline that is not chosen is compared with all the same.
    """
    here = of_request(texts, request)
    if request is None or here.empty:
        return _page("<p>No text is chosen.</p>")
    study = explored.results.study
    baselines = {run.id: study.baseline(run) for run in study.runs()}
    every = of_request(explored.texts, request).set_index("run_id")["text"]
    columns = []
    for row in here.itertuples():
        baseline = baselines[row.run_id]
        if row.run_id == baseline.id:
            text, compared = escaped(row.text), "the baseline"
        elif baseline.id not in every:
            text, compared = escaped(row.text), f"its baseline {baseline.precision} is not there"
        elif row.text == every[baseline.id]:
            text, compared = escaped(row.text), f"as at {baseline.precision}"
        else:
            text, share = marked(row.text, every[baseline.id])
            compared = f"{share:.0%} of its words are not those at {baseline.precision}"
        bars = _bars(row.probabilities, row.emotion) if row.probabilities else ""
        judged = _judged(row.emotion, row.judged_emotion, row.probabilities)
        head = f"<h4>{escaped(run_label(row.model, row.precision, row.engine))}</h4><small>judged: {judged}; {compared}</small>"
        columns.append(f'<article>{head}<p class="text">{text or "<i>an empty text</i>"}</p>{bars}</article>')
    asked = f"<p><small>Asked for {escaped(request[1])}:</small> {escaped(here['request'].iloc[0])}</p>"
    return _page(f'{asked}<div class="runs">{"".join(columns)}</div>')


def of_request(texts: pd.DataFrame, request: Request | None) -> pd.DataFrame:
    """Return the texts of one request."""
    return texts[(texts[KEY] == list(request or (None, None, None))).all(axis="columns").to_numpy()]


def run_texts(texts: pd.DataFrame, run_id: str) -> str:
    """Return one run's texts as HTML, RUN_TEXTS at most, with what was asked for and judged."""
    here = texts[texts["run_id"] == run_id]
    if here.empty:
        return _page("<p>No text of this run is chosen.</p>")
    rows = "".join(
        f"<tr><td>{escaped(row.prompt_id)}</td><td>{escaped(row.emotion)}</td><td>"
        f"{_judged(row.emotion, row.judged_emotion, row.probabilities)}</td>"
        f'<td class="text">{escaped(row.text)}</td></tr>'
        for row in here.head(RUN_TEXTS).itertuples()
    )
    first = here.iloc[0]
    counted = f"{len(here):,} text{'s' * (len(here) > 1)}"
    if len(here) > RUN_TEXTS:
        counted = f"the first {RUN_TEXTS} of {counted}; choose fewer above"
    head = "<tr><th>prompt</th><th>asked for</th><th>judged</th><th>text</th></tr>"
    title = f"<p><b>{escaped(run_label(*first[NAMED]))}</b>: {counted}</p>"
    return _page(f'{title}<div class="list"><table>{head}{rows}</table></div>')


def notes(kept: Sequence[Note], texts: pd.DataFrame) -> str:
    """Return the notes on the texts that are given as HTML, the latest last. kept: results.kept_notes."""
    runs = pd.Series([run_label(*run) for run in texts[NAMED].itertuples(index=False, name=None)], texts.index, dtype=str)
    named = [(str(note["id"]).translate(annotation.LETTERS), note) for note in kept]  # ids of former versions have digits
    lines = (
        f"<p><small>{escaped(note['time'])} on {escaped(runs[text_id])}:</small> {escaped(note['note'])}</p>"
        for text_id, note in named
        if text_id in runs.index
    )
    return _page("".join(lines))


def advice(results: Results, memory_gb: str, seconds_a_text: str, streams: int | None = None) -> str:
    """Return which run to take within a budget, and why, in plain text; each limit as it was typed, nothing for none.

    The rule is choose.within_budget's. streams: how many texts are under way at once where the seconds count; None for one text
    alone. Raises InputError for what is no number above 0, and without a judged and measured run.
    """
    peak_bytes, latency_s = 1e9 * _limit(memory_gb, "GB"), _limit(seconds_a_text, "seconds")
    runs, draws = results.judged, results.draws
    if streams is None:
        return words.advice(choose.within_budget(runs, peak_bytes, latency_s, draws), peak_bytes, latency_s)
    runs = choose.at_streams(runs, results.under_load, streams)
    known = runs["latency_s"].notna().to_numpy()
    left_out = [run_label(*run) for run in runs.loc[~known, NAMED].itertuples(index=False, name=None)]
    taken = choose.within_budget(runs[known], peak_bytes, latency_s, draws[:, known])
    return words.advice(taken, peak_bytes, latency_s, streams, left_out)


def users(results: Results) -> list[tuple[str, int | None]]:
    """Return the levels that a budget's seconds may be of, with their names: one text alone, and the streams of a load."""
    judged = results.under_load[results.under_load["run_id"].isin(results.judged["run_id"])]
    streams = sorted(judged.loc[judged["loop"] == "closed", "streams"].unique().tolist())
    return [("one text alone", None), *((f"{count} concurrent user{'s' * (count != 1)}", count) for count in streams)]


def _limit(typed: str, unit: str) -> float:
    """Return a limit that was typed; infinity for nothing."""
    try:
        limit = float(typed) if typed.strip() else np.inf
    except ValueError:
        limit = np.nan
    if not limit > 0:
        problem, remedy = f"the budget {typed!r} is no number of {unit} above 0", "type such as 0.5, or nothing for no limit"
        raise InputError(problem, value=typed, remedy=remedy)
    return limit
