"""Records to frames of how well texts are written, whatever their emotion: length, diversity, repetition, refusal, perplexity."""

import numpy as np
import pandas as pd

from affq.errors import InputError
from affq.inference import KEY
from affq.scoring import distinct_n

STATISTICS = ["words", "distinct_1", "distinct_2", "seq_rep_4", "self_bleu", "refusal", "degenerate", "collapsed"]
LIKELIHOOD = ["nll_nats", "tokens"]
RUN = ["run_id", "model", "precision"]
COLUMNS = (
    *(*RUN, "texts", "words", "cut", "refusal", "degenerate", "seq_rep_4", "distinct_1", "distinct_2", "self_bleu"),
    *("perplexity", "scored_itself", "collapsed", "collapsed_low", "collapsed_high"),
)


def texts(records):
    """Give every text of the complete runs: columns RUN, KEY, text, cut, STATISTICS, LIKELIHOOD, scored_itself.

    cut: it did not end by itself, but at the token limit. scored_itself: the weights that say how likely it is are those that
    wrote it, at whatever precision. What was not scored is empty. Raises InputError if no run is complete.
    """
    frames = [_of_record(record) for record in records if record.complete]
    if not frames:
        raise InputError("no run of this study is complete: there is no text; affq run makes them")
    return pd.concat(frames, ignore_index=True)


def _of_record(record):
    run = record.run
    generations = pd.DataFrame(record.generations())
    frame = pd.DataFrame({"run_id": run.id, "model": run.model.name, "precision": run.precision}, index=generations.index)
    frame[[*KEY, "text"]] = generations[[*KEY, "text"]]
    frame["cut"] = ~generations["ended"]
    for scorer, columns in (("text-quality", STATISTICS), ("perplexity", LIKELIHOOD)):
        # A line a generation, in their order.
        frame[columns] = pd.DataFrame(record.scores(scorer), columns=columns, index=frame.index)
    manifest = record.manifest("perplexity")
    frame["scored_itself"] = manifest["by"]["revision"] == run.model.revision if manifest else None
    return frame


def by_run(texts, interval):
    """Give one row a run, columns COLUMNS, over the texts that were asked for an emotion; a run that was not scored has no row.

    words, seq_rep_4 and self_bleu are means over the texts that have them; cut, refusal, degenerate and collapsed are shares;
    distinct_1 and distinct_2 are over all texts of the run together. perplexity is exp(sum of nll_nats / sum of tokens); a text
    that repeats itself has a low one (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751): lower is not better.
    interval: from collapsed, an array (prompts, texts a prompt) of 0 and 1, to the (low, high) of its mean. Texts of one prompt
    hang together, so it must take prompts, not texts, as independent.
    """
    asked, rows = texts[texts["emotion"].notna() & texts["words"].notna()], []
    means = ["words", "cut", "refusal", "degenerate", "seq_rep_4", "self_bleu", "collapsed"]
    for run, of in asked.groupby(RUN, sort=False):
        row = dict(zip(RUN, run, strict=True)) | {"texts": len(of)} | of[means].astype(float).mean().to_dict()
        row |= {f"distinct_{n}": distinct_n(of["text"], n) for n in (1, 2)}
        tokens = of["tokens"].sum()
        row["perplexity"] = np.exp(of["nll_nats"].sum() / tokens) if tokens else np.nan
        row["scored_itself"] = of["scored_itself"].iloc[0]
        by_prompt = of.groupby("prompt_id", sort=False)["collapsed"].agg(list)
        row["collapsed_low"], row["collapsed_high"] = interval(np.array(by_prompt.tolist(), dtype=float))
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)
