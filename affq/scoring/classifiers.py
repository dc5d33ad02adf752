"""Judges that others made: sequence classifiers of a folder or of the hub, whose labels stand for emotions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affq import imports
from affq.emotions import NONE, folded
from affq.errors import InputError
from affq.files import slug
from affq.models import LOCAL, sources
from affq.scoring.judge import Judge, PackagedJudge, packaged, saying_little

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_TOKENS = 512  # of a text that are read, where neither tokenizer nor model takes fewer


@dataclass(frozen=True)
class SequenceClassifier:
    """A sequence classifier as a judge.

    labels: pairs (its label, emotion) where they differ; what else it answers keeps its own name, in lower case, and counts as
    wrong. It has no card: how often it errs is not known here.
    """

    source: sources.Folder | sources.Repository | sources.Absent
    labels: tuple[tuple[str, str], ...]

    card = about = None

    @property
    def name(self) -> str:
        return slug(self.source.name)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The emotion, or what else, that each of its labels stands for, in the order of its logits."""
        named = self.source.config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers' default
        try:
            own = [folded(str(named[key])) for key in sorted(named, key=int)]
        except (AttributeError, TypeError, ValueError):
            problem = "{place} has an id2label that is no mapping of numbers"
            raise InputError(problem, place=self.source.folder / "config.json") from None
        stands_for = {folded(label): emotion for label, emotion in self.labels}
        if len(stands_for) < len(self.labels):
            problem = f"two labels for judge {self.source.name} differ by letter case or accents alone"
            raise InputError(problem, value=[label for label, _ in self.labels], remedy="leave one out")
        if unknown := [label for label, _ in self.labels if folded(label) not in own]:
            problem = f"judge {self.source.name} has no label {unknown[0]!r}; its labels: {', '.join(own)}"
            raise InputError(problem, value=unknown[0])
        answers = tuple(stands_for.get(label, label) for label in own)
        if NONE in answers:  # scores say it of a text that collapsed
            problem = f"judge {self.source.name} has a label of its own called {NONE}, which affq says of collapsed texts"
            remedy = (
                f"say which emotion it stands for, as labels: {{{NONE}: sadness}}, "
                f"or rename it in the id2label of its config.json"
            )
            raise InputError(problem, value=NONE, remedy=remedy)
        return answers

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.answers))

    @property
    def here(self) -> bool:
        return self.source.here if isinstance(self.source, sources.Repository) else isinstance(self.source, sources.Folder)

    def need(self, emotions: Iterable[str]) -> None:
        if lacking := [emotion for emotion in emotions if emotion not in self.answers]:
            labels = ", ".join(self.answers)
            problem = f"judge {self.source.name} has no label for {', '.join(lacking)}; its labels: {labels}"
            remedy = "say which stand for them, as labels: {remorse: guilt}, or ask for other emotions"
            raise InputError(problem, value=lacking[0], remedy=remedy)

    def fetch(self, say: Callable[[str], None]) -> None:
        self.source.fetch(say)

    @property
    def identity(self) -> dict[str, Any]:
        return {"judge": self.name, "revision": self.source.revision, "labels": dict(self.labels)}

    @cached_property
    def _loaded(self) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
        """Load it in float32, on the CPU. A head that its weights lack would be made up: it is refused."""
        import torch
        import transformers

        imports.models_of_transformers()
        transformers.utils.logging.disable_progress_bar()
        folder = self.source.folder
        self.source.config  # noqa: B018 - what a configuration may not say is said before anything is built
        loader: Any = transformers.AutoModelForSequenceClassification  # whose types know nothing of output_loading_info
        options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **LOCAL)
            with saying_little():  # else it lists the weights of other heads, which a classifier has no use for
                model, keys = loader.from_pretrained(folder, **options, **LOCAL)
        except Exception as error:  # what a reader of foreign files can raise is not to be listed
            words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InputError(f"transformers cannot load the classifier {{place}} ({words})", place=folder) from None
        if missing := keys["missing_keys"]:
            raise InputError(f"{{place}} lacks {len(missing)} of its weights, as {min(missing)}", place=folder)
        if not _embeds(model, tokenizer.pad_token_id):
            tokenizer.pad_token = tokenizer.eos_token if _embeds(model, tokenizer.eos_token_id) else None
        # A model that generates reads its answer at the last token that is not this one.
        model.config.pad_token_id = tokenizer.pad_token_id
        return tokenizer, model.eval()

    def probabilities(self, texts: Sequence[str], batch: int = 32) -> "np.ndarray":
        """Return the probability of each of `emotions` for each text: array of shape (texts, emotions).

        Labels that stand for one emotion are added; of a classifier of several labels a text, each a probability by itself, the
        greatest counts. A text without a token gives all labels the same probability.
        """
        import numpy as np
        import torch

        from affq.models import positions

        tokenizer, model = self._loaded
        several = model.config.problem_type == "multi_label_classification"
        most = min(tokenizer.model_max_length, positions(model) or MOST_TOKENS, MOST_TOKENS)
        if tokenizer.pad_token is None:
            batch = 1
        of_labels = np.full((len(texts), len(self.answers)), 1 / len(self.answers))
        # Where a tokenizer adds no token of its own, an empty text has none, and a model has nothing to read.
        read = [i for i, text in enumerate(texts) if tokenizer(text, truncation=True, max_length=most)["input_ids"]]
        by_length = sorted(read, key=lambda i: len(texts[i]))  # little padding
        for start in range(0, len(by_length), batch):
            where = by_length[start : start + batch]
            inputs = tokenizer(
                [texts[i] for i in where], return_tensors="pt", padding=batch > 1, truncation=True, max_length=most
            )
            with torch.inference_mode():
                logits = model(**inputs).logits.float()
            of_labels[where] = (torch.sigmoid(logits) if several else torch.softmax(logits, dim=1)).numpy()
        columns = [[i for i, answer in enumerate(self.answers) if answer == emotion] for emotion in self.emotions]
        return np.stack([of_labels[:, i].max(axis=1) if several else of_labels[:, i].sum(axis=1) for i in columns], axis=1)


def _embeds(model: "PreTrainedModel", token_id: int | None) -> bool:
    return token_id is not None and token_id < getattr(model.config, "vocab_size", float("inf"))


def find(
    value: str, labels: Mapping[str, str], beside: Path, emotions: Sequence[str], may_be_absent: bool = False
) -> Judge | None:
    """Return the judge that `value` names: packaged, a folder (relative to `beside`), or owner/name of the hub; None for nothing.

    labels: {its label: one of `emotions`} where a classifier's labels differ. may_be_absent: for whoever reads scores, a judge
    that is not here has its name all the same. Raises InputError for a folder that cannot be loaded, and for labels that do not
    map.
    """
    if unknown := [emotion for emotion in labels.values() if emotion not in emotions]:
        problem = f"unknown emotion {unknown[0]!r} in the labels of judge {value}"
        raise InputError(problem, value=unknown[0], choices=emotions)
    if value in packaged():
        if labels:
            raise InputError(f"judge {value} is packaged, and answers with emotions: leave its labels out", value=value)
        return PackagedJudge(value)
    source: sources.Folder | sources.Repository | sources.Absent | None
    try:
        source = sources.find_classifier(value, beside)
        error = InputError(f"judge {value} is not here", value=value)
    except InputError as refused:
        source, error = None, refused
        if not may_be_absent:
            raise
    if source is None and may_be_absent:
        source = sources.absent(value, error)
    return SequenceClassifier(source, tuple(labels.items())) if source else None
