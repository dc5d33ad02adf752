"""Read a study, refuse what it does not know, and expand it to ordered runs with ids."""

import hashlib
import json
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from affq.emotions import EMOTIONS, REFERENCES
from affq.errors import InputError
from affq.files import slug
from affq.models import PRECISIONS, Source, sources, weights
from affq.scoring import classifiers
from affq.scoring import packaged as packaged_judges
from affq.study.claims import read_claims
from affq.study.prompts import cross, read_prompts, read_references
from affq.study.settings import SHORT, Settings, read_yaml
from affq.study.study_file import HOTTEST, MOST, YEAR_S, Budget, Generation, Limits, Measurement

HERE = Path(__file__).parent
ENGINES = ("eager",)
DEVICES = ("auto", "cpu", "cuda")
DECODINGS = ("greedy", "sampled")
WEIGHTS = ("trained", "random")
# The counts of `measurement`, and the least that each may be; two tokens are one further token.
MEASURED = {"texts": 1, "new_tokens": 2, "warmup_tokens": 1, "rounds": 1, "token_texts": 0, "processes": 1, "throughput": 0}


@dataclass(frozen=True)
class Run:
    """One (model, precision) of a study."""

    study: "Study"
    model: Source
    precision: str

    @cached_property
    def settings(self):
        """Give whatever changes a text or a reading; the device is not in it, it is recorded."""
        study = self.study
        return {
            "model": self.model.name,
            "revision": self.model.revision,
            "weights": study.weights,
            "precision": {"name": self.precision, **asdict(PRECISIONS[self.precision])},
            "engine": study.engine,
            "offload": study.offload,
            "prompts_sha256": study.prompts_sha256,
            "emotions": list(study.emotions),
            "samples": study.samples,
            "batch": study.batch,
            "seed": study.seed,
            "generation": study.generation.model_dump(exclude_none=True),
            "measurement": study.measurement.model_dump(),
        }

    @property
    def random_seed(self):
        """Give the seed of random weights; None for trained ones."""
        return None if self.study.judged else self.study.seed

    @cached_property
    def id(self):
        """Give `<model>--<precision>--<digest>`, the digest being that of the settings."""
        return f"{slug(self.model.name)}--{self.precision}--{_sha256(self.settings)[:10]}"


@dataclass(frozen=True)
class Study:
    """What is compared. Paths are resolved; `source` is what `load_study` was given: notebooks run in the same folder."""

    name: str
    source: str
    models: tuple[Source, ...]
    precisions: tuple
    weights: str
    engine: str
    device: str
    offload: bool
    prompts: Path
    emotions: tuple
    samples: int
    batch: int
    seed: int
    generation: Generation
    measurement: Measurement
    limits: Limits
    judges: tuple
    references: Path
    perplexity: Source | None  # the model that says how likely texts are; None for none
    claims: Path
    budget: Budget

    def runs(self):
        """List the runs: model by model, each from its highest precision down."""
        return [Run(self, model, p) for model in self.models for p in PRECISIONS if p in self.precisions]

    @cached_property
    def prompts_sha256(self):
        """Give the hash of what the prompts say: an empty line more in their file is the same prompts."""
        return _sha256(read_prompts(self.prompts))

    @cached_property
    def requests(self):
        """Return what each run is asked for, the control's requests last, as `prompts.cross` gives them."""
        return cross(read_prompts(self.prompts), self.emotions, self.samples)

    @property
    def texts_wanted(self):
        """Return the number of texts of each run, the control's among them."""
        return len(self.requests)

    @cached_property
    def texts_asked(self):
        """Count the texts of each run that are asked for an emotion."""
        return sum(request["emotion"] is not None for request in self.requests)

    @property
    def sampling(self):
        """Give the {temperature, seed} that tokens are drawn with; None where decoding is greedy."""
        greedy = self.generation.decoding == "greedy"
        return None if greedy else {"temperature": self.generation.temperature, "seed": self.seed}

    @property
    def judged(self):
        """Say whether the texts have a quality to judge; those of random weights mean nothing."""
        return self.weights != "random"

    @property
    def scorers(self):
        """List the ids of what scores the texts: the judges and metrics."""
        also = ("perplexity",) if self.perplexity else ()
        return (*(judge.name for judge in self.judges), "rouge-references", "rouge-baseline", "text-quality", *also)

    def run(self, model, precision):
        """Find one run by the name of its model and its precision."""
        runs = {(run.model.name, run.precision): run for run in self.runs()}
        if (model, precision) not in runs:
            known = ", ".join(f"{m} {p}" for m, p in runs)
            raise InputError(f"study {self.name} has no run of {model!r} at {precision!r}; it has: {known}")
        return runs[model, precision]

    def baseline(self, model):
        """Give the run that this model's paired figures are taken against: the highest precision that the study names."""
        return Run(self, model, next(p for p in PRECISIONS if p in self.precisions))


def _sha256(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def packaged():
    """Give the packaged studies: {name: path}."""
    return {path.stem: path for path in sorted((HERE / "studies").glob("*.yaml"), key=lambda path: path.stem)}


def load_study(source):
    """Read the packaged study or the YAML file that `source` names.

    What a study leaves out is as in study `default`; `models` and `precisions` must be there. Raises InputError with the
    value, the place (file and line) and the choices.
    """
    source, known = str(source), packaged()
    if source in known:
        path = known[source]
    elif Path(source).suffix in {".yaml", ".yml"}:
        path = Path(source).resolve()
        if path.stem != slug(path.stem):
            raise InputError(
                f"{source!r} would name a folder of results; rename it, to {slug(path.stem)}{path.suffix} for instance"
            )
        if path.stem in known and path != known[path.stem]:
            raise InputError(f"{source} has the name of a packaged study, whose results it would replace; rename the file")
    else:
        a_model = Path(source).is_dir() or Path(source).suffix == ".gguf" or "/" in source
        also = f"; or did you mean affq run --model {source}?" if a_model else ""
        raise InputError(f"unknown study {source!r}; known: {', '.join(known)}; or give the path of a .yaml file{also}")
    values, lines = read_yaml(path, "study", "models and precisions")
    defaults, _ = read_yaml(known["default"])
    return _Reader(path, values, lines, defaults).study(source)


class _Reader(Settings):
    """Makes a Study of the settings of one file."""

    def __init__(self, path, values, lines, defaults):
        super().__init__(path, values, lines, defaults)
        for key in ("models", "precisions"):
            if key not in values:
                raise InputError(f"{path} names no {key}; a study needs models and precisions")

    def model(self, index, value):
        random = self.values["weights"] == "random"
        found = (sources.find_architecture if random else sources.find)(value, self.path.parent)
        if not found:
            near = get_close_matches(value.lower(), known := weights.generating(), n=4, cutoff=0.3) or known[:1]
            others = f"and {len(known) - len(near)} more in affq's catalog.yaml"
            also = ["or a folder or .gguf file (beside the study)", "or owner/name of the hub (with @revision)"]
            also = ["or a folder with its config.json (beside the study)"] if random else also
            self.refuse("unknown model", value, ("models", index), [*near, others, *also])
        return found

    def judges(self):
        """Find the judges: names, folders, hub ids, or mappings {judge: one of these, labels: {its label: emotion}}."""
        values = self.values["judges"]
        if not isinstance(values, list) or not values:
            raise InputError(f"judges in {self.where('judges')} must be a list, with one at least; found {SHORT.repr(values)}")
        found = tuple(self.judge(index, value) for index, value in enumerate(values))
        if len({judge.name for judge in found}) < len(found):
            raise InputError(f"two judges in {self.where('judges')} have the same name; leave one out, or rename its folder")
        return found

    def judge(self, index, value):
        place, given = ("judges", index), {"labels": {}, **value} if isinstance(value, dict) else {"judge": value, "labels": {}}
        if unknown := [key for key in given if key not in ("judge", "labels")]:
            self.refuse("unknown key", unknown[0], place, ("judge", "labels"))
        name, labels = given.get("judge"), given["labels"]
        texts = isinstance(labels, dict) and all(isinstance(word, str) for pair in labels.items() for word in pair)
        if not isinstance(name, str) or not texts:
            raise InputError(
                f"a judge in {self.where(*place)} must be a name, or {{judge: its name, labels: {{its label: emotion}}}}; "
                f"found {SHORT.repr(value)}"
            )
        try:
            found = classifiers.find(name, labels, self.path.parent, EMOTIONS)
            if found and found.here:
                found.need(self.values["emotions"])
        except InputError as error:
            raise InputError(f"{self.where(*place)}: {error}") from None
        if not found:
            others = ("or a folder (beside the study)", "or owner/name of the hub (with @revision)")
            self.refuse("unknown judge", name, place, (*packaged_judges(), *others))
        return found

    def generation(self):
        """Read how tokens are chosen. Greedy decoding has no temperature, and gives one sample."""
        decoding = self.one_of("generation", DECODINGS, "decoding", "decoding")
        read = {"decoding": decoding, "max_new_tokens": self.integer(1, "generation", "max_new_tokens")}
        if decoding == "sampled":
            return read | {"temperature": self.between(0, HOTTEST, "generation", "temperature")}
        if self.values["generation"]["temperature"] is not None:
            raise InputError(f"temperature in {self.where('generation', 'temperature')} goes with decoding: sampled, not greedy")
        if self.integer(1, "samples") != 1:
            raise InputError(
                f"samples in {self.where('samples')} must be 1: greedy decoding gives the same text each time; "
                f"generation's decoding: sampled gives others"
            )
        return read

    def scoring_model(self):
        """Find the model by which perplexity is reckoned."""
        if (value := self.values["perplexity"]) is None:
            return None
        if not isinstance(value, str) or not (found := sources.find(value, self.path.parent)):
            self.refuse("unknown model", value, ("perplexity",), (*weights.generating()[:1], "as under models", "or null"))
        return found

    def study(self, source):
        kind = self.one_of("weights", WEIGHTS, "kind of weights")
        models = tuple(self.model(i, value) for i, value in enumerate(self.names("models", "model")))
        if len({model.name for model in models}) < len(models):
            raise InputError(f"two models in {self.where('models')} have the same name; rename one of the folders or files")
        prompts = {p.stem: p for p in sorted((HERE / "prompt_sets").glob("*.csv"))}
        study = Study(
            name=self.path.stem,
            source=source,
            models=models,
            precisions=self.names("precisions", "precision", PRECISIONS),
            weights=kind,
            engine=self.one_of("engine", ENGINES, "engine"),
            device=self.one_of("device", DEVICES, "device"),
            offload=self.yes_or_no("offload"),
            prompts=self.file("prompts", ".csv", prompts),
            emotions=self.names("emotions", "emotion", EMOTIONS),
            samples=self.integer(1, "samples"),
            batch=self.integer(1, "batch"),
            seed=self.integer(0, "seed"),
            generation=Generation(**self.generation()),
            measurement=Measurement(
                **{name: self.integer(least, "measurement", name) for name, least in MEASURED.items()},
                aim=self.between(0, 1, "measurement", "aim"),
                profile=self.yes_or_no("measurement", "profile"),
            ),
            limits=Limits(
                cell_s=self.integer(1, "limits", "cell_s", most=YEAR_S), run_s=self.integer(1, "limits", "run_s", most=YEAR_S)
            ),
            judges=self.judges(),
            references=self.file("references", ".jsonl", {"synthetic": REFERENCES}),
            perplexity=self.scoring_model(),
            claims=self.file("claims", ".yaml", {"paper": HERE / "claims.yaml"}),
            budget=Budget(
                **{
                    name: None if given is None else self.between(0, MOST, "budget", name)
                    for name, given in self.values["budget"].items()
                }
            ),
        )
        # Bad lines are said now, not after a night of generating.
        read_prompts(study.prompts)
        read_references(study.references, study.emotions)
        read_claims(study.claims)
        return study
