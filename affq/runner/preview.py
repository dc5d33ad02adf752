"""Preview a study: its first prompts' texts, judged, made in this process as a run makes them. Nothing is recorded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from affq import models
from affq.errors import InputError, printable
from affq.inference import Generation, Request, key_of, measure, probes
from affq.results import FailureKind
from affq.runner import endings, kernel
from affq.scoring import saying_little, scores
from affq.study import Run, Study, prompts


@dataclass(frozen=True)
class Preview:
    """What a run's model writes to the first prompts, and the emotion that the study's first judge reads in each text.

    waited_s: since this process began.
    """

    run: Run
    texts: list[Generation]
    judged: list[str]
    waited_s: float


def preview(study: Study, model: str | None, precision: str | None, most: int, say: Callable[[str], None]) -> Preview:
    """Generate and judge a text for each emotion of the study's first prompts, at most so many.

    model, precision: of a run of the study; None for the first that the study names. say(words) is told what goes on. Weights
    that are not here are fetched. Raises InputError for what would make the run fail.
    """
    run, judge = study.run(model or study.models[0].name, precision or study.precisions[0]), study.judges[0]
    seeds = prompts.read_prompts(study.prompts)
    if most > len(seeds):
        say(f"All the prompts that the study has are tried: {len(seeds)}.")
    requests = [request for request in prompts.cross(seeds[:most], study.emotions) if request["emotion"]]
    run.model.fetch(say)
    judge.fetch(say)
    judge.need(study.emotions)
    say(f"Generating {len(requests)} texts with {run.model.name} at {run.precision} …")
    with _offline(), kernel.stripped(), saying_little():
        texts = _generate(run, requests)
        judged = [row["judged_emotion"] for row in scores.emotion_scores(texts, judge)]
    return Preview(run, texts, judged, measure.since_start())


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
    from affq.models import memory

    study, precision, folder, settings = run.study, run.precision, run.model.folder, run.study.generation
    device = models.resolve_device(study.device)
    models.import_for(folder, precision)
    room = memory.room(run, memory.of_run(run, device), device)
    loaded, tokenizer = models.load(folder, precision, device, room=room)
    models.prove(models.census(loaded), precision)
    network = cast(generate.Model, loaded)  # transformers does not declare that its models generate
    prepare = partial(generate.prepare, network, tokenizer, thinking=settings.thinking)
    prompt_tokens = generate.count_tokens(network, tokenizer, requests, settings.max_new_tokens, settings.thinking)
    longest = prepare(requests)["input_ids"].shape[1] + settings.max_new_tokens
    models.make_ready(loaded, precision, study.engine, prepare(requests[:1]), longest)
    texts: list[Generation] = []
    for batch in generate.in_batches(requests, prompt_tokens, study.batch):
        options = (settings.max_new_tokens, None, study.sampling, settings.thinking)
        texts += generate.texts(network, tokenizer, batch, *options)[0]
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
