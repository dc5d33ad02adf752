"""How well texts are written, whatever their emotion: length, diversity, refusals, perplexity; and what the batch changes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from affq.analysis.texts import RUN, asked_and_judged, baseline_of, complete, f1_counts, in_line, named
from affq.inference import KEY
from affq.results import Reading
from affq.scoring import distinct_n
from affq.stats import compare

STATISTICS = ["words", "distinct_1", "distinct_2", "seq_rep_4", "self_bleu", "refusal", "degenerate", "collapsed", "repeats_from"]
AS_MADE = ["text", "thought_tokens", "opens_turn"]
LIKELIHOOD = ["nll_nats", "tokens"]
TEXT_QUALITY = (
    *(*RUN, "texts", "words", "thought_tokens", "cut", "opens_turn", "refusal", "degenerate"),
    *("seq_rep_4", "distinct_1", "distinct_2", "self_bleu"),
    *("perplexity", "scored_itself", "collapsed", "collapsed_low", "collapsed_high"),
)
BATCH_EFFECT = "model precision engine batch timed asked changed changed_by_precision f1_alone f1 f1_baseline".split()


def with_statistics(texts: pd.DataFrame, records: Sequence[Reading]) -> pd.DataFrame:
    """Return the texts with how well they are written: columns RUN, KEY, AS_MADE, cut, STATISTICS, LIKELIHOOD, scored_itself.

    cut: it did not end by itself, but at the token limit. scored_itself: the weights that say how likely it is are those that
    wrote it, at whatever precision. What was not scored is empty. texts: Results.texts.
    """
    by_run = dict(list(texts.groupby("run_id", sort=False)))
    return pd.concat([_of_record(record, by_run[record.run.id]) for record in complete(records)], ignore_index=True)


def _of_record(record: Reading, texts: pd.DataFrame) -> pd.DataFrame:
    frame = texts[[*RUN, *KEY, *AS_MADE]].assign(cut=~texts["ended"])
    keys = texts[KEY].astype(object).where(texts[KEY].notna(), None)  # a frame's missing emotion is no None
    for scorer, columns in (("text-quality", STATISTICS), ("perplexity", LIKELIHOOD)):
        rows = in_line(record.scores(scorer), list(keys.itertuples(index=False, name=None)))
        frame[columns] = pd.DataFrame(rows, columns=columns, index=frame.index)
    manifest = record.manifest("perplexity")
    return frame.assign(scored_itself=manifest["by"].get("revision") == record.run.model.revision if manifest else None)


def text_quality(texts: pd.DataFrame, interval: Callable[[np.ndarray], tuple[float, float]]) -> pd.DataFrame:
    """Return one row a run, columns TEXT_QUALITY, over the texts that were asked for an emotion; none for an unscored run.

    words, thought_tokens, seq_rep_4 and self_bleu are means over the texts that have them; cut, opens_turn, refusal, degenerate
    and collapsed are shares; distinct_1 and distinct_2 are over all texts of the run together. perplexity is exp(sum of
    nll_nats / sum of tokens); a text that repeats itself has a low one (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751):
    lower is not better. texts: as `with_statistics` returns them. interval: from collapsed, an array (prompts, texts a prompt) of
    0 and 1, to the (low, high) of its mean. Texts of one prompt depend on each other, so it must take prompts, not texts, as
    independent.
    """
    scored, rows = texts[texts["emotion"].notna() & texts["words"].notna()], []
    of_a_text = {*STATISTICS, *AS_MADE, "cut"} - {"distinct_1", "distinct_2"}
    means = [name for name in TEXT_QUALITY if name in of_a_text]
    for run, of_run in scored.groupby(RUN, sort=False):
        row = dict(zip(RUN, run, strict=True)) | {"texts": len(of_run)} | of_run[means].astype(float).mean().to_dict()
        row |= {f"distinct_{n}": distinct_n(of_run["text"], n) for n in (1, 2)}
        tokens = of_run["tokens"].sum()
        row["perplexity"] = np.exp(of_run["nll_nats"].sum() / tokens) if tokens else np.nan
        row["scored_itself"] = of_run["scored_itself"].iloc[0]
        by_prompt = of_run.groupby("prompt_id", sort=False)["collapsed"].agg(list)
        row["collapsed_low"], row["collapsed_high"] = interval(np.array(by_prompt.tolist(), dtype=float))
        rows.append(row)
    return pd.DataFrame(rows, columns=TEXT_QUALITY)


def batch_effect(records: Sequence[Reading], texts: pd.DataFrame) -> pd.DataFrame:
    """Compare each run's timed texts with the same ones in the study's batch, and the batch's effect with the precision's.

    One row a run, columns BATCH_EFFECT: of `asked` texts so many were `timed`, each in a batch of one; `changed` is the share of
    these whose text in the study's batch is another, and changed_by_precision the share whose text in that batch is not the
    baseline's. f1_alone is there where all were timed.
    """
    by_run = dict(list(texts.groupby("run_id", sort=False)))
    rows = []
    for record in (r for r in complete(records) if r.run.study.judged):
        study, baseline = record.run.study, baseline_of(record, records)
        alone = {tuple(row[name] for name in KEY): row["text"] for row in record.alone()}
        own, other = by_run[record.run.id], by_run.get(baseline.run.id, texts[:0])
        own_texts, other_texts = _by_key(own), _by_key(other)
        row: dict[str, Any] = {**named(record.run), "batch": study.batch}
        row |= {"timed": len(alone), "asked": study.texts_asked, "changed": _share_changed(alone, own_texts)}
        if baseline is not record:
            row["changed_by_precision"] = _share_changed({key: own_texts[key] for key in alone}, other_texts)
        judged = asked_and_judged(own)
        if (scores := record.scores(f"{study.judges[0].name}-alone")) and not judged.empty:
            row |= {"f1_alone": _macro_f1(pd.DataFrame(scores), study.emotions), "f1": _macro_f1(judged, study.emotions)}
            if baseline is not record:
                row["f1_baseline"] = _macro_f1(asked_and_judged(other), study.emotions)
        rows.append(row)
    return pd.DataFrame(rows, columns=BATCH_EFFECT).astype({name: float for name in BATCH_EFFECT[6:]})


def _by_key(texts: pd.DataFrame) -> dict[tuple, str]:
    return dict(zip(texts[KEY].itertuples(index=False, name=None), texts["text"], strict=True))


def _share_changed(texts: dict[tuple, str], others: dict[tuple, str]) -> float | None:
    """Return the share of texts that differ from others' of the same key; None where there is nothing to compare."""
    return float(np.mean([text != others[key] for key, text in texts.items()])) if texts and others else None


def _macro_f1(judged: pd.DataFrame, emotions: Sequence[str]) -> float | None:
    return None if judged.empty else float(compare.macro_f1(f1_counts(judged, emotions)))
