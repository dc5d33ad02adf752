"""Sentences about the texts: what to know before believing their figures, the batch's effect, collapse."""

import re
from collections.abc import Iterator

import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from affq.analysis import NAMED
from affq.report.words.text import as_data, run_name, span
from affq.scoring import Judge
from affq.study import Study, on_engine

SMALL = 0.5  # an effect of the batch is small beside the precision's up to this share of it


def caveats(study: Study, summary: pd.DataFrame, texts: pd.DataFrame, effect: pd.DataFrame) -> str:
    """List what a reader must know before believing the figures. The frames are Results.summary, texts and batch_effect."""
    lines = [
        f"**The measurement of {as_data(f'{row.model} at {row.precision}{on_engine(row.engine)}')} was disturbed**, so do not "
        f"rely on its times: {as_data(row.disturbed)}."
        for row in summary[summary["disturbed"].fillna("") != ""].itertuples()
    ]
    lines += _of_judged(study, summary, texts, effect) if study.judged else _of_random_weights()
    return "\n".join(f"- {line}" for line in lines)


def _of_random_weights() -> Iterator[str]:
    yield (
        "The weights are random, in the models' shapes: memory and time are those of the architecture. The texts mean nothing, "
        "and none is judged."
    )
    yield "Prompts are cut into tokens by a tokenizer that stands in for the models' own, and no chat template is added."
    yield (
        "Random weights have no outlier columns, which LLM.int8 computes apart: with trained weights int8 can take longer, and "
        "this study cannot say how much longer."
    )


def _of_judged(study: Study, summary: pd.DataFrame, texts: pd.DataFrame, effect: pd.DataFrame) -> Iterator[str]:
    for model, dtypes in summary.dropna(subset="stored_dtype").groupby("model", sort=False)["stored_dtype"]:
        if (dtype := dtypes.iloc[0]) != "float32":
            bits = f", {held[1]} bits a weight" if (held := re.match(r"q(\d)", dtype)) else ""
            yield (
                f"The weights of {as_data(model)} were published as {dtype}{bits}: a higher precision is loaded from these, and "
                f"is no better than they are."
            )
    if summary["emotion_f1"].isna().all():
        yield "No text is judged yet: there is no F1, and nothing that rests on it."
        return
    asked = texts[texts["emotion"].notna()]
    by_run = asked.assign(cut=~asked["ended"], none=asked["judged_emotion"] == "none").groupby(NAMED)
    yield _errs(study.judges[0])
    yield f"Chance alone: with the targets shuffled, F1 is {summary['emotion_f1_chance'].mean():.2f}, the runs' average."
    tokens = study.generation.max_new_tokens
    yield f"Texts cut at {tokens} tokens are judged as they stand: {span(by_run['cut'].mean())} of a run's texts."
    yield f"Empty or degenerate texts count as wrong: {span(by_run['none'].mean())} of a run's texts."
    yield from _beside_the_answer(by_run, tokens)
    yield (
        f"Each F1 rests on {summary['texts'].max()} texts of {asked['prompt_id'].nunique()} prompts. Its 95 % interval, *low* to "
        f"*high* in the table above, says what other prompts like these would give. Runs share their prompts: the differences "
        f"between them are tested below."
    )
    yield (
        f"A text that names its emotion is easily judged: {span(by_run['names_target'].mean())} of a run's texts have a word for "
        f"the emotion asked for. With emotion words masked, F1 is {span(summary['emotion_f1_masked'], '.2f')}."
    )
    yield from batch(effect)


def _beside_the_answer(by_run: DataFrameGroupBy, tokens: int) -> Iterator[str]:
    """Say what models wrote besides their answers, where any did. tokens: that a text may have at most."""
    if (thoughts := by_run["thought_tokens"].mean()).any():
        yield (
            f"Models thought before they answered. Their thoughts are left out of the texts, and count among the {tokens} tokens "
            f"that a text may have: {span(thoughts, '.0f')} of these on a run's average."
        )
    if (turns := by_run["opens_turn"].mean()).any():
        yield (
            f"Some texts go on into a turn of the user, which the model makes up, and are judged as they stand: "
            f"{span(turns)} of a run's texts."
        )


def _errs(judge: Judge) -> str:
    if not judge.card:
        return (
            f"The judge {as_data(judge.name)} has no card: how often it errs is not known. F1 says how well it and request agree."
        )
    test = judge.card["test"]
    return (
        f"The judge {as_data(judge.name)} errs: its macro-F1 is {test['macro_f1']:.2f} on {as_data(test['file'])} "
        f"({test['texts']} texts that people wrote about an emotion), and it was not trained on generated text. F1 here says how "
        f"well judge and request agree."
    )


def batch(effect: pd.DataFrame) -> Iterator[str]:
    """Return how far batch and padding change the texts, and a warning for each run where they change as much as precision does.

    effect: Results.batch_effect. As much: more than SMALL of it.
    """
    known = effect.dropna(subset="changed")
    if known.empty:
        return
    first = known.iloc[0]
    yield (
        f"Batching and padding change greedy texts: of {first['timed']} timed prompts of {first['asked']}, "
        f"{span(known['changed'])} of a run's texts differ between batch 1 and the study's batch of {first['batch']}."
    )
    for row in known.itertuples():
        effects = []
        if row.changed_by_precision >= 0 and row.changed > SMALL * row.changed_by_precision:
            effects.append(f"the batch changes {row.changed:.0%} of these texts, the precision {row.changed_by_precision:.0%}")
        by_batch, by_precision = abs(row.f1_alone - row.f1), abs(row.f1 - row.f1_baseline)
        if by_batch > SMALL * by_precision:
            effects.append(
                f"F1 is {row.f1_alone:.2f} alone and {row.f1:.2f} in the batch; the baseline's is {row.f1_baseline:.2f}"
            )
        if effects:
            run = run_name(row.model, row.precision, row.engine)
            yield f"**{run}: batching changes the texts about as much as the precision does**: {'; '.join(effects)}."


def onsets(onsets: pd.DataFrame) -> str:
    """Return how many of each run's texts repeat themselves to their end, and by which word. onsets: Results.onsets."""
    if onsets.empty:
        return ""
    lines = []
    for row in onsets.itertuples():
        line = f"- **{run_name(row.model, row.precision, row.engine)}**: {row.repeating} of {row.texts} texts"
        reached = row.half_words if pd.notna(row.half_words) else row.quarter_words
        if pd.notna(reached):
            share = "half" if pd.notna(row.half_words) else "a quarter"
            line += f"; {share} of those that are so long do so by word {reached:,.0f}"
        if pd.notna(row.p):
            told = "told apart from" if row.p < 0.05 else "not told apart from"
            line += f"; {told} {row.against} (log-rank p = {row.p:.2f})"
        lines.append(f"{line}.")
    return "\n".join(lines)


def collapse(quality: pd.DataFrame) -> str:
    """Return how often generation collapsed. quality: Results.text_quality."""
    if quality.empty:
        return ""
    own = " Where *scored itself* is true, the fixed model wrote the texts." if quality["scored_itself"].eq(True).any() else ""
    return (
        f"Generation collapsed in {span(quality['collapsed'])} of a run's texts; *collapsed low* to *collapsed high* is the 95 % "
        f"interval for prompts like these.{own}"
    )
