"""Preview a study: its first prompts' texts, judged, made in this process as a run makes them. Nothing is recorded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from affq import models
from affq.errors import InputError, printable
from affq.inference import Generation, Request, key_of, measure, probes
from affq.results import FailureKind
from affq.runner import endings, kernel
from affq.scoring import saying_little, scores
from affq.study import Run, Study, on_engine, prompts


@dataclass(frozen=True)
class Preview:
    """What a run's model writes to the first prompts, and the emotion that the study's first judge reads in each text.

    waited_s: since this process began.
    """

    run: Run
    texts: list[Generation]
    judged: list[str]
    waited_s: float


def preview(
    study: Study, model: str | None, precision: str | None, engine: str | None, most: int, say: Callable[[str], None]
) -> Preview:
    """Generate and judge a text for each emotion of the study's first prompts, at most so many.

    model, precision, engine: of a run of the study; None for any, of which the first is taken. say(words) is told what goes on.
    Weights that are not here are fetched. Raises InputError for what would make the run fail.
    """
    run, judge = _chosen(study, model, precision, engine), study.judges[0]
    seeds = prompts.read_prompts(study.prompts)
    if most > len(seeds):
        say(f"All the prompts that the study has are tried: {len(seeds)}.")
    requests = [request for request in prompts.cross(seeds[:most], study.emotions) if request["emotion"]]
    models.fetch(run.model, run.precision, run.engine, say)
    judge.fetch(say)
    judge.need(study.emotions)
    say(f"Generating {len(requests)} texts with {run.model.name} at {run.precision}{on_engine(run.engine.label)} …")
    with _offline(), kernel.stripped(), saying_little():
        texts = _generate(run, requests)
        judged = [row["judged_emotion"] for row in scores.emotion_scores(texts, judge)]
    return Preview(run, texts, judged, measure.since_start())


def _chosen(study: Study, model: str | None, precision: str | None, engine: str | None) -> Run:
    """Return the first run that is of what is named, in the study's own order. Raises InputError if there is none."""
    asked = dict(study.engines)
    engines = list(asked)
    for run in sorted(study.runs(), key=lambda run: (engines.index(run.engine), asked[run.engine].index(run.precision))):
        named = (model in (None, run.model.name), precision in (None, run.precision), engine in (None, run.engine.label))
        if all(named):
            return run
    first = study.runs()[0]
    return study.run(model or first.model.name, precision or first.precision, engine or first.engine.label)


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the hub's client from the network: it read its variable when it was imported, perhaps to fetch."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _generate(run: Run, requests: list[Request]) -> list[Generation]:
    """Return the texts of the requests, as the quality pass makes them. Raises InputError for what a run fails by."""
    free_bytes = probes.free_bytes()
    try:
        return _quality_pass(run, requests)
    except InputError:
        raise
    except Exception as error:  # libraries say that memory ran out in errors of many types
        failure = endings.of_error(run, free_bytes, type(error).__name__, str(error))
        if failure.kind == FailureKind.ERROR:
            raise
        raise InputError(failure.words, remedy=failure.remedy) from None


def _quality_pass(run: Run, requests: list[Request]) -> list[Generation]:
    from affq.inference import generate  # torch, which reads some of kernel.LEFT_OUT when it is imported

    serving = models.engine_of(run)
    serving.import_all()
    serving.instruments()
    serving.load()
    try:
        prompt_tokens = serving.count_tokens(requests)
        serving.make_ready(requests)
        texts: list[Generation] = []
        for batch in generate.in_batches(requests, prompt_tokens, run.study.batch):
            texts += serving.texts(batch)[0]
    finally:
        serving.close()
    places = [key_of(request) for request in requests]
    return sorted(texts, key=lambda text: places.index(key_of(text)))


def lines(shown: Preview, columns: int | None) -> list[str]:
    """Return a preview as a table, a line a text, and what it amounts to; columns: where lines are cut, None for nowhere."""
    rows: list[tuple[str, ...]] = [("prompt", "asked", "judged", "text")]
    hits = 0
    for text, emotion in zip(shown.texts, shown.judged, strict=True):
        hit = emotion == text["emotion"]
        hits += hit
        cells = (text["prompt_id"], text["emotion"], emotion if hit else f"≠ {emotion}", " ".join(text["text"].split()))
        rows.append(tuple(map(printable, cells)))
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)][:-1]
    table = []
    for *names, words in rows:
        line = Text("  ".join([*map(set_cell_size, names, widths), words]))
        if columns:
            line.truncate(columns, overflow="ellipsis")
        table.append(line.plain)
    judge = shown.run.study.judges[0].name
    return [
        *table,
        f"{hits} of {len(shown.texts)} texts are judged as asked, by {judge}; {shown.waited_s:.0f} s.",
        "Nothing was recorded. A text depends on its batch: affq run may write others, and its figures count.",
    ]
