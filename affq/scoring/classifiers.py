"""Judges that others made: sequence classifiers of a folder or of the hub, whose labels stand for emotions."""

from dataclasses import dataclass
from functools import cached_property

from affq.emotions import NONE
from affq.errors import InputError
from affq.files import slug
from affq.models import sources
from affq.scoring.judge import Judge, packaged, saying_little

MOST_TOKENS = 512  # of a text that are read, where neither tokenizer nor model takes fewer


@dataclass(frozen=True)
class SequenceClassifier:
    """A sequence classifier as a judge.

    source: of `sources`, with its weights. labels: pairs (its label, emotion) where they differ; what it calls otherwise stays an
    answer by its own name, in lower case, and counts as wrong. It has no card: how often it errs is not known here.
    """

    source: object
    labels: tuple

    card = None

    @property
    def name(self):
        return slug(self.source.name)

    @cached_property
    def answers(self):
        """Give the emotion, or what else, that each of its labels stands for, in the order of its logits."""
        named = self.source.config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # transformers' default
        try:
            own = [str(named[key]).lower() for key in sorted(named, key=int)]
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"{self.source.folder / 'config.json'} has an id2label that is no mapping of numbers") from None
        stands_for = {label.lower(): emotion for label, emotion in self.labels}
        if unknown := [label for label, _ in self.labels if label.lower() not in own]:
            raise InputError(f"judge {self.source.name} has no label {unknown[0]!r}; its labels: {', '.join(own)}")
        found = tuple(stands_for.get(label, label) for label in own)
        if NONE in found:  # scores say it of a text that collapsed
            raise InputError(
                f"judge {self.source.name} has a label of its own called {NONE}, which affq says of collapsed texts; say which "
                f"emotion it stands for, as labels: {{{NONE}: sadness}}, or rename it in the id2label of its config.json"
            )
        return found

    @property
    def emotions(self):
        return tuple(dict.fromkeys(self.answers))

    @property
    def here(self):
        """Say whether its configuration is here, so that its emotions are known."""
        return not isinstance(self.source, sources.Repository) or self.source.here

    def need(self, emotions):
        """Raise InputError unless each of these emotions is an answer of it."""
        if lacking := [emotion for emotion in emotions if emotion not in self.answers]:
            raise InputError(
                f"judge {self.source.name} has no label for {', '.join(lacking)}; its labels: {', '.join(self.answers)}; "
                f"say which stand for them, as labels: {{remorse: guilt}}, or ask for other emotions"
            )

    def fetch(self, say):
        self.source.fetch(say)

    @property
    def identity(self):
        """Give what tells this judge from others, as its scores record it."""
        return {"judge": self.name, "revision": self.source.revision, "labels": dict(self.labels)}

    @cached_property
    def _loaded(self):
        """Load it in float32, on the CPU: (tokenizer, model). A head that its weights lack would be made up: it is refused."""
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        folder = self.source.folder
        options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            with saying_little():  # else it lists the weights of other heads, which a classifier has no use for
                model, found = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **options)
        except Exception as error:  # what a reader of foreign files can raise is not to be listed
            words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InputError(f"transformers cannot load the classifier {folder} ({words})") from None
        if found["missing_keys"]:
            raise InputError(f"{folder} lacks {len(found['missing_keys'])} of its weights, as {min(found['missing_keys'])}")
        if tokenizer.pad_token is None and tokenizer.eos_token is not None:
            tokenizer.pad_token = tokenizer.eos_token
        # A model that generates reads its answer at the last token that is not this one.
        model.config.pad_token_id = tokenizer.pad_token_id
        return tokenizer, model.eval()

    def probabilities(self, texts, batch=32):
        """Give the probability of each of `emotions` for each text: array of shape (texts, emotions).

        Labels that stand for one emotion are added; those of a classifier of several labels a text, each a probability by
        itself, give the greatest. A text without a token gives all labels the same.
        """
        import numpy as np
        import torch

        tokenizer, model = self._loaded
        several = model.config.problem_type == "multi_label_classification"
        most = min(tokenizer.model_max_length, _positions(model), MOST_TOKENS)
        if tokenizer.pad_token is None:
            batch = 1
        found = np.full((len(texts), len(self.answers)), 1 / len(self.answers))
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
            found[where] = (torch.sigmoid(logits) if several else torch.softmax(logits, dim=1)).numpy()
        of = [[i for i, answer in enumerate(self.answers) if answer == emotion] for emotion in self.emotions]
        return np.stack([found[:, i].max(axis=1) if several else found[:, i].sum(axis=1) for i in of], axis=1)


def _positions(model):
    """Give how many tokens a model has positions for; those of RoBERTa and its kin begin after the padding's."""
    import torch

    most = getattr(model.config, "max_position_embeddings", MOST_TOKENS)
    if most < 1:  # XLNet's have no end
        return MOST_TOKENS
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            return most - module.padding_idx - 1
    return most


def find(value, labels, beside, emotions):
    """Find the judge that `value` names: packaged, a folder (relative to `beside`), or owner/name of the hub; None for nothing.

    labels: {its label: one of `emotions`} where a classifier's labels differ. Raises InputError for a folder that cannot be
    loaded, and for labels that do not map.
    """
    if unknown := [emotion for emotion in labels.values() if emotion not in emotions]:
        raise InputError(f"unknown emotion {unknown[0]!r} in the labels of judge {value}; known: {', '.join(emotions)}")
    if value in packaged():
        if labels:
            raise InputError(f"judge {value} is packaged, and answers with emotions: leave its labels out")
        return Judge(value)
    source = sources.find_classifier(value, beside)
    return source and SequenceClassifier(source, tuple(labels.items()))
