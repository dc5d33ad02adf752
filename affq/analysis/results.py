"""A study's results as frames: each is made when it is first asked for, from records that are checked and read once."""

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from affq.analysis import (
    annotation,
    choose,
    claims,
    comparison,
    concurrency,
    costs,
    engines,
    judges,
    long,
    quality,
    soak,
    summary,
    texts,
)
from affq.errors import InputError
from affq.results import Snapshot, kept_labels, snapshots, study_folder
from affq.study import Run, Study, load_study

ROUGE = [*texts.NAMED, "rouge1", "rouge2", "rougeL", "rougeL_to_baseline"]


class Results:
    """The results of a study as tidy frames in raw units; docs/frames.md says what the rows and columns of each are.

    study: the name of a packaged study, the path of a study file, or a Study. folder: where results are, as `--results` says.
    They are as they were when they were first read: another Results reads them anew. Whoever gets a frame must not change it.
    A frame of texts raises InputError if no run is complete.
    """

    def __init__(self, study: Study | Path | str, folder: Path | str = "reports") -> None:
        self.study = study if isinstance(study, Study) else load_study(study, folder)
        self.folder = study_folder(folder, self.study)
        self._results = folder

    @cached_property
    def records(self) -> list[Snapshot[Run]]:
        """Each run's records."""
        return snapshots(self._results, self.study)

    @cached_property
    def texts(self) -> pd.DataFrame:
        """Every text of the complete runs, with its scores."""
        return texts.join(self.records)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Each run, with its status, quality and cost."""
        return summary.summarize(self.records, self.compared, self.intervals)

    @cached_property
    def compared(self) -> comparison.Compared:
        """The judged texts as arrays."""
        return comparison.Compared(self.texts, self.study)

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The rows of `summary` of the runs whose texts are judged."""
        judged = [run.id for run in self.compared.runs]
        return self.summary[self.summary["run_id"].isin(judged)].reset_index(drop=True)

    @cached_property
    def _by_chance(self) -> tuple[pd.DataFrame, np.ndarray]:
        rng = np.random.default_rng(self.study.seed)  # one generator, used in this order
        return comparison.differences(self.compared, rng), self.compared.f1_draws(rng)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Each run's emotion F1 less its baseline's, with tests."""
        return self._by_chance[0]

    @cached_property
    def draws(self) -> np.ndarray:
        """Emotion F1 with the prompts resampled, of shape (draws, rows of `judged`)."""
        return self._by_chance[1]

    @cached_property
    def intervals(self) -> pd.DataFrame:
        """Each figure of quality with its interval."""
        return comparison.intervals(self.compared)

    @cached_property
    def detectable(self) -> pd.DataFrame:
        """The change of emotion F1 that each comparison detects with 80 % power."""
        return comparison.detectable(self.compared)

    @cached_property
    def smallest_change(self) -> tuple[pd.DataFrame, str]:
        """`detectable`, or what is foreseen where there are no judged texts, and whose variance it is reckoned from."""
        try:
            own = self.detectable
        except InputError:  # no run is complete
            own = pd.DataFrame()
        return comparison.foreseen(self.study) if own.empty else (own, "its own texts")

    @cached_property
    def variance(self) -> pd.DataFrame:
        """Where the variance of right and wrong texts comes from."""
        return comparison.variance(self.compared)

    @cached_property
    def by_prompts(self) -> pd.DataFrame:
        """Emotion F1 by the number of prompts."""
        return comparison.by_prompts(self.compared)

    @cached_property
    def emotion_f1(self) -> pd.DataFrame:
        """F1 and recall by emotion."""
        return texts.emotion_f1(self.texts, self.study.emotions)

    @cached_property
    def confusion(self) -> pd.DataFrame:
        """Texts by the emotion asked for and the emotion judged."""
        return texts.confusion(self.texts, self.study.emotions)

    @cached_property
    def rouge(self) -> pd.DataFrame:
        """ROUGE against references and against the baseline's texts."""
        return self.summary[ROUGE]

    @cached_property
    def text_quality(self) -> pd.DataFrame:
        """Length, diversity, repetition, refusals, perplexity."""
        return quality.text_quality(self._with_statistics, comparison.share_interval)

    @cached_property
    def _with_statistics(self) -> pd.DataFrame:
        return quality.with_statistics(self.texts, self.records)

    @cached_property
    def repetition(self) -> pd.DataFrame:
        """The share of texts that do not repeat themselves yet, over words."""
        return long.repetition(self._with_statistics)

    @cached_property
    def onsets(self) -> pd.DataFrame:
        """Where each run's texts begin to repeat themselves."""
        return long.onsets(self._with_statistics, self.records)

    @cached_property
    def batch_effect(self) -> pd.DataFrame:
        """How many timed texts the study's batch changes."""
        return quality.batch_effect(self.records, self.texts)

    @cached_property
    def memory(self) -> pd.DataFrame:
        """Readings of memory by phase."""
        return costs.memory(self.records)

    @cached_property
    def memory_parts(self) -> pd.DataFrame:
        """What the peak at decode is made of."""
        return costs.memory_parts(self.records)

    @cached_property
    def census(self) -> pd.DataFrame:
        """Stored parameters by role and dtype."""
        return costs.census(self.records)

    @cached_property
    def latency(self) -> pd.DataFrame:
        """Each timed text and round."""
        return costs.latency(self.records)

    @cached_property
    def latency_statistics(self) -> pd.DataFrame:
        """Medians of each kind of reading, with intervals."""
        return costs.latency_statistics(self.records)

    @cached_property
    def load(self) -> pd.DataFrame:
        """What else the machine did while it measured."""
        return costs.load(self.records)

    @cached_property
    def energy(self) -> pd.DataFrame:
        """The energy of the timed texts."""
        return costs.energy(self.records)

    @cached_property
    def series(self) -> pd.DataFrame:
        """What is measured beside the runs over and over, and what it is worth."""
        return concurrency.series(self.records)

    @cached_property
    def _loads(self) -> list[concurrency.Loaded]:
        return concurrency.read(self.records)

    @cached_property
    def load_requests(self) -> pd.DataFrame:
        """Every text that was asked for under load."""
        return concurrency.requests(self._loads)

    @cached_property
    def under_load(self) -> pd.DataFrame:
        """What each level of load gave: texts a second, times, goodput."""
        return concurrency.under_load(self._loads, self.load_percentiles)

    @cached_property
    def load_percentiles(self) -> pd.DataFrame:
        """Percentiles of each level's times, with intervals."""
        return concurrency.load_percentiles(self._loads)

    @cached_property
    def texts_under_load(self) -> pd.DataFrame:
        """How far each level's texts are those of one stream, and whether F1 moves."""
        return concurrency.texts_under_load(self.load_requests, self.study.emotions)

    @cached_property
    def kernels(self) -> pd.DataFrame:
        """Time by kernel."""
        return costs.kernels(self.records)

    @cached_property
    def largest_kernels(self) -> pd.DataFrame:
        """The kernels that take most of each run's and phase's time."""
        return costs.largest_kernels(self.kernels)

    @cached_property
    def throughput(self) -> pd.DataFrame:
        """Texts and tokens a second by batch size."""
        return costs.throughput(self.records)

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """Costs as multiples of the baseline's."""
        return costs.ratios(self.records)

    @cached_property
    def engines(self) -> pd.DataFrame:
        """How far each engine's texts are those of the study's first engine."""
        return engines.same_texts(self.records)

    @cached_property
    def soaks(self) -> pd.DataFrame:
        """Each soak: how long it was, and how many texts failed or differ."""
        return soak.soaks(self.records)

    @cached_property
    def soak_rounds(self) -> pd.DataFrame:
        """Memory, time and texts of each round of a soak."""
        return soak.rounds(self.records)

    @cached_property
    def soak_drifts(self) -> pd.DataFrame:
        """Whether each soak's memory and latency drift."""
        return soak.drifts(self.records)

    @cached_property
    def time_spent(self) -> pd.DataFrame:
        """Where each run's time went."""
        return costs.time_spent(self.records)

    @cached_property
    def claims(self) -> pd.DataFrame:
        """The verdict on each claim."""
        return claims.study_verdicts(self.compared, self.records, self.summary)

    def frontier(self, cost: str) -> pd.DataFrame:
        """Return which judged runs are on the frontier of emotion F1 over a cost, `peak_bytes` or `latency_s`."""
        return choose.frontier(self.judged, cost, self.draws)

    @cached_property
    def choice(self) -> pd.DataFrame | None:
        """What the study's budget chooses; None without a budget."""
        memory_gb, latency_s = self.study.budget.memory_gb, self.study.budget.seconds_a_text
        if memory_gb is None and latency_s is None:
            return None
        peak_bytes = np.inf if memory_gb is None else 1e9 * memory_gb
        return choose.within_budget(self.judged, peak_bytes, np.inf if latency_s is None else latency_s, self.draws)

    @cached_property
    def similar_memory(self) -> pd.DataFrame:
        """Pairs of judged runs whose peaks are similar."""
        return choose.similar_peaks(self.judged)

    @cached_property
    def prices(self) -> pd.DataFrame | None:
        """The price of 1,000 texts of each judged run; None without a price in the study."""
        per_hour, per_kwh = self.study.budget.price_per_hour, self.study.budget.price_per_kwh
        return None if per_hour is None and per_kwh is None else choose.prices(self.judged, per_hour, per_kwh)

    @cached_property
    def judgements(self) -> pd.DataFrame:
        """Each judge's answer to each text."""
        return judges.judgements(self.records, self.texts)

    @cached_property
    def by_judge(self) -> pd.DataFrame:
        """Emotion F1 under each judge."""
        return judges.by_judge(self.judgements, self.texts, self.study)

    @cached_property
    def between_judges(self) -> pd.DataFrame:
        """How far the judges agree."""
        return judges.between_judges(self.judgements)

    @cached_property
    def _labels(self) -> tuple[dict[str, pd.DataFrame], int]:
        return annotation.known(kept_labels(self._results, self.study), self.texts)

    @cached_property
    def labels(self) -> dict[str, pd.DataFrame]:
        """People's labels of texts that are here: {person: frame}."""
        return self._labels[0]

    @cached_property
    def former_labels(self) -> int:
        """How many labels are of texts that are here no more."""
        return self._labels[1]

    @cached_property
    def _labelled(self) -> pd.DataFrame:
        return annotation.beside(self.texts, self.labels)

    @cached_property
    def people(self) -> pd.DataFrame:
        """How far people agree with target, judge and each other."""
        return annotation.between_people(self._labelled, list(self.labels))

    @cached_property
    def corrected(self) -> pd.DataFrame:
        """Emotion F1 by judge and people's labels together."""
        return annotation.corrected(self._labelled, list(self.labels), self.study.emotions)

    @cached_property
    def judge_band(self) -> pd.DataFrame | None:
        """Emotion F1 if the first judge errs as on its card; None if it has no card."""
        card = self.study.judges[0].card
        rng = np.random.default_rng(self.study.seed)
        return annotation.bands(self.texts, card, rng) if card else None

    @cached_property
    def judge_quality(self) -> pd.DataFrame:
        """Precision, recall and F1 of each judge on its test file."""
        return judges.judge_quality(self.study.judges)

    @cached_property
    def examples(self) -> pd.DataFrame:
        """Texts chosen by rule."""
        return texts.examples(self.texts)

    def side_by_side(self, emotion: str) -> pd.DataFrame:
        """Return the texts for one emotion, a row a prompt and a column a run."""
        return texts.side_by_side(self.texts, emotion)

    @cached_property
    def provenance(self) -> pd.DataFrame:
        """What the complete runs were made of and on."""
        return summary.provenance(self.records)
