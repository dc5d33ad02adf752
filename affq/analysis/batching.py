"""Does the batch change the texts? Each run's timed texts, alone and in the study's batch."""

import numpy as np
import pandas as pd

from affq.analysis.tables import baseline_of, judged_texts, macro_f1
from affq.inference import KEY


def batch_effect(records, texts):
    """Compare each run's timed texts with the same ones in the study's batch, and the batch's effect with the precision's.

    One row a run, {model, precision, batch, timed, asked, changed, changed_by_precision, f1_alone, f1, f1_baseline}: of `asked`
    texts so many were `timed`, each in a batch of one; `changed` is the share of these that reads otherwise in the batch, and
    changed_by_precision the share whose text in the batch is not the baseline's. f1_alone is there where all were timed.
    """
    rows = []
    for record in (r for r in records if r.complete and r.run.study.judged):
        study, baseline = record.run.study, baseline_of(record, records)
        alone = {tuple(row[name] for name in KEY): row["text"] for row in record.alone()}
        own, other = (_by_key(texts, r.run.id) for r in (record, baseline))
        row = {"model": record.run.model.name, "precision": record.run.precision, "batch": study.batch}
        row |= {"timed": len(alone), "asked": study.texts_asked, "changed": _share_changed(alone, own)}
        row["changed_by_precision"] = None if baseline is record else _share_changed({key: own[key] for key in alone}, other)
        judged = judged_texts(texts, record.run.id)
        if (scores := record.scores(f"{study.judges[0].name}-alone")) and not judged.empty:
            row["f1_alone"] = _f1_of(pd.DataFrame(scores), study)
            row |= {"f1": _f1_of(judged, study)}
            row["f1_baseline"] = None if baseline is record else _f1_of(judged_texts(texts, baseline.run.id), study)
        rows.append(row)
    columns = "model precision batch timed asked changed changed_by_precision f1_alone f1 f1_baseline".split()
    return pd.DataFrame(rows, columns=columns).astype({name: float for name in columns[5:]})


def _by_key(texts, run_id):
    of = texts[texts["run_id"] == run_id]
    return dict(zip(of[KEY].itertuples(index=False, name=None), of["text"], strict=True))


def _share_changed(texts, others):
    """Give the share of texts that are others' of the same key, and differ; None where there is nothing to compare."""
    return float(np.mean([text != others[key] for key, text in texts.items()])) if texts and others else None


def _f1_of(judged, study):
    return None if judged.empty else macro_f1(judged["emotion"], judged["judged_emotion"], study.emotions)
