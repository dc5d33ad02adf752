"""What the explorer shows: a study's texts and figures as frames, and as HTML in which every text is data. No widgets.

A run that is missing, failed or not ended is simply not there.
"""

import html
import re
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import pandas as pd

from affq.analysis import Results, annotation, choose
from affq.errors import InputError, printable
from affq.inference import KEY
from affq.study import prompts

NO_EMOTION = "no emotion"  # what the control's texts were asked for
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
    """A study's texts and figures, loaded once.

    texts: Results.texts with `id` (as in a sample to label), `request` (the prompt without a chat's marks), `probabilities`
    ({emotion: p}, None where not judged), and emotion NO_EMOTION for the control. runs: Results.judged; draws: Results.draws,
    None without such runs.
    """

    study: object
    texts: pd.DataFrame
    runs: pd.DataFrame
    draws: np.ndarray | None


def load(study, results):
    """Load a study's complete runs. Raises InputError if there is none."""
    loaded = Results(study, results)
    study, texts = loaded.study, loaded.texts
    probabilities = {}
    for record in (record for record in loaded.records if record.complete):
        for row in record.scores(study.judges[0].name):
            key = (record.run.id, row["prompt_id"], row["emotion"] or NO_EMOTION, row["sample"])
            probabilities[key] = row["probabilities"]
    runs = loaded.judged
    draws = loaded.draws if len(runs) else None
    shown = annotation.identified(texts.assign(emotion=texts["emotion"].fillna(NO_EMOTION)))
    keys = list(shown[["run_id", *KEY]].itertuples(index=False, name=None))
    shown["probabilities"] = pd.Series([probabilities.get(key) for key in keys], dtype=object)
    crossed = prompts.cross(prompts.read_prompts(study.prompts), study.emotions, study.samples)
    asked = {(row["prompt_id"], row["emotion"] or NO_EMOTION, row["sample"]): row["request"] for row in crossed}
    shown["request"] = [asked[key[1:]] for key in keys]
    return Explored(study, shown.set_index("id", drop=False), runs, draws)


def chosen(texts, **values):
    """Give the texts whose column has one of the values, for each column that is named: model, precision, emotion, prompt_id."""
    wanted = np.ones(len(texts), dtype=bool)
    for column, some in values.items():
        wanted &= texts[column].isin(some).to_numpy()
    return texts[wanted]


def requests(texts):
    """Give what was asked for, one row a prompt, emotion and sample, and how far one model's precisions disagree on its text.

    Columns KEY, `emotions` and `spread`: of the model that disagrees most, how many emotions its precisions' texts are judged to
    carry, and the largest less the smallest probability of the emotion that was asked for. Unjudged texts count for neither.
    """
    of_model = texts.groupby([*KEY, "model"], sort=False)
    probability = of_model["target_probability"]
    each = pd.DataFrame({"emotions": of_model["judged_emotion"].nunique(), "spread": probability.max() - probability.min()})
    return each.groupby(level=KEY, sort=False).max().reset_index()


def most_disagreed(asked):
    """Order `requests` by disagreement: more judged emotions first, then the larger spread."""
    return asked.sort_values(["emotions", "spread"], ascending=False, kind="stable", na_position="last")


def marked(text, baseline):
    """Give a text as HTML, escaped: the words that are not the baseline's marked, ⋯ where it has lost some; and their share.

    Words are what white space parts; they are matched as difflib does. The share is of the text's words, 0 for an empty text.
    """
    words, spaces = text.split(), re.findall(r"\s+|\Z", text.lstrip())
    parts, changed = [], 0
    for kind, lost, gone, start, end in SequenceMatcher(None, old := baseline.split(), words, autojunk=False).get_opcodes():
        shown = "".join(escaped(word + space) for word, space in zip(words[start:end], spaces[start:end], strict=True))
        if kind == "delete":
            shown = f'<del title="{escaped(" ".join(old[lost:gone]))}">⋯</del> '
        elif kind != "equal":
            changed += end - start
            shown = f"<mark>{shown.rstrip()}</mark>{shown[len(shown.rstrip()) :]}"
        parts.append(shown)
    return "".join(parts), changed / max(len(words), 1)


def escaped(value):
    """Give any value as HTML that shows it: no markup, and what is no printable character as \\x1b."""
    # Nothing hides or turns the line around, and half a surrogate pair can be sent.
    return html.escape("".join(c if c.isspace() else printable(c) for c in str(value)))


def _bars(probabilities, asked):
    rows = []
    for emotion, p in probabilities.items():
        kind = ' class="asked"' if emotion == asked else ""
        rows.append(f"<span{kind}>{escaped(emotion)}</span><span><i{kind} style='width:{p:.0%}'></i></span><span>{p:.2f}</span>")
    return f'<div class="bars">{"".join(rows)}</div>'


def _judged(row):
    if row.probabilities is None:
        return "–"
    right = {True: "✓ ", False: "✗ "}[row.judged_emotion == row.emotion] if row.emotion != NO_EMOTION else ""
    return f"{right}{escaped(row.judged_emotion)}"


def _page(content):
    return f'{STYLE}<div class="affq">{content}</div>'


def side_by_side(explored, texts, request):
    """Show the texts of one request, a column a run, each against its model's baseline: HTML.

    texts: the chosen ones; request: (prompt id, emotion, sample). A baseline that is not chosen is compared with all the same.
    """
    here = of_request(texts, request)
    if here.empty:
        return _page("<p>No text is chosen.</p>")
    baselines = {model.name: explored.study.baseline(model) for model in explored.study.models}
    every = of_request(explored.texts, request).set_index("run_id")["text"]
    columns = []
    for row in here.itertuples():
        baseline = baselines[row.model]
        if row.run_id == baseline.id:
            text, said = escaped(row.text), "the baseline"
        elif baseline.id not in every:
            text, said = escaped(row.text), f"its baseline {baseline.precision} is not there"
        else:
            text, share = marked(row.text, every[baseline.id])
            same = row.text == every[baseline.id]
            said = f"as at {baseline.precision}" if same else f"{share:.0%} of its words are not those at {baseline.precision}"
        bars = _bars(row.probabilities, row.emotion) if row.probabilities else ""
        head = f"<h4>{escaped(row.model)} {row.precision}</h4><small>judged: {_judged(row)}; {said}</small>"
        columns.append(f'<article>{head}<p class="text">{text or "<i>an empty text</i>"}</p>{bars}</article>')
    asked = f"<p><small>Asked for {escaped(request[1])}:</small> {escaped(here['request'].iloc[0])}</p>"
    return _page(f'{asked}<div class="runs">{"".join(columns)}</div>')


def of_request(texts, request):
    """Give the texts of one request: (prompt id, emotion, sample)."""
    return texts[(texts[KEY] == list(request)).all(axis="columns").to_numpy()]


def run_texts(texts, run_id):
    """Show one run's texts, RUN_TEXTS at most, with what was asked for and judged: HTML."""
    of = texts[texts["run_id"] == run_id]
    if of.empty:
        return _page("<p>No text of this run is chosen.</p>")
    rows = "".join(
        f"<tr><td>{escaped(row.prompt_id)}</td><td>{escaped(row.emotion)}</td><td>{_judged(row)}</td>"
        f'<td class="text">{escaped(row.text)}</td></tr>'
        for row in of.head(RUN_TEXTS).itertuples()
    )
    first = of.iloc[0]
    counted = f"{len(of):,} text{'s' * (len(of) > 1)}"
    if len(of) > RUN_TEXTS:
        counted = f"the first {RUN_TEXTS} of {counted}; choose fewer above"
    head = "<tr><th>prompt</th><th>asked for</th><th>judged</th><th>text</th></tr>"
    said = f"<p><b>{escaped(first['model'])} {first['precision']}</b>: {counted}</p>"
    return _page(f'{said}<div class="list"><table>{head}{rows}</table></div>')


def notes(kept, texts):
    """Show the notes on the texts that are given, the latest last: HTML. kept: results.kept_notes."""
    runs = texts["model"] + " " + texts["precision"]
    of = [note for note in kept if note["id"] in runs.index]
    lines = "".join(f"<p><small>{escaped(n['time'])} on {escaped(runs[n['id']])}:</small> {escaped(n['note'])}</p>" for n in of)
    return _page(lines)


def advice(explored, memory_gb, seconds_a_text):
    """Say which run to take within a budget, and why, in plain text; each limit as it was typed, nothing for none.

    The rule is choose.within_budget's. Raises InputError for what is no number above 0, and without a judged and measured run.
    """
    limits = []
    for typed, unit in ((memory_gb, "GB"), (seconds_a_text, "seconds")):
        try:
            limits.append(float(typed) if typed.strip() else np.inf)
        except ValueError:
            limits.append(np.nan)
        if not limits[-1] > 0:
            raise InputError(f"the budget {typed!r} is no number of {unit} above 0; type such as 0.5, or nothing for no limit")
    peak_bytes, latency_s = 1e9 * limits[0], limits[1]
    return choose.advice(choose.within_budget(explored.runs, peak_bytes, latency_s, explored.draws), peak_bytes, latency_s)
