"""The annotator: one text of a sample at a time, a key a label, for JupyterLab. Target, judge and run stay hidden.

Labels are kept in a copy of the sample beside it, one a person, after every answer.
"""

from functools import partial
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from affq import files
from affq.analysis import Results, annotation
from affq.emotions import NONE
from affq.errors import InputError, printable
from affq.report import escaped
from affq.results import read_labels
from affq.widgets.keys import keyed

STYLE = (
    "font: 18px/1.6 var(--jp-content-font-family, serif); max-width: 40em; min-height: 9em; padding: 8px 0; white-space: pre-wrap"
)


class Annotator:
    """Widgets that label the texts of a sample, from the first without a label on; `box` is to be shown.

    sample: the CSV file that affq annotate --out wrote. person: who labels; the labels go to <sample>-<person>.csv beside it.
    Raises InputError for a sample that is none of this study's, or whose copy is of another sample.
    """

    def __init__(self, study: str | Path, results: str | Path, sample: str | Path, person: str) -> None:
        if not person.strip():
            raise InputError("person is empty", value=person, remedy="give the name of whoever labels, such as anna")
        sample, loaded = Path(sample), Results(study, results)
        self.choices = (*loaded.study.emotions, NONE)
        self.path = sample.with_name(f"{sample.stem}-{files.slug(person)}.csv")
        self.frame = self._read(sample, loaded)
        if self.path.exists():
            former = self._read(self.path, loaded)
            if list(former["id"]) != list(self.frame["id"]):
                problem = f"{{place}} has the labels of another sample than {sample}"
                raise InputError(problem, place=self.path, remedy="move it, or give another person")
            self.frame = former
        self.answered = [place for place, label in enumerate(self.frame["label"]) if label]
        self._make(study)
        self._show()

    @staticmethod
    def _read(path: Path, results: Results) -> pd.DataFrame:
        """Return a sample or a copy of it; an empty label is allowed anywhere, as nothing may be labelled yet."""
        frame = read_labels(path)
        if missing := [name for name in annotation.COLUMNS if name not in frame]:
            remedy = "label a file that affq annotate --out wrote"
            raise InputError(f"{{place}} has no column {missing[0]}", place=path, remedy=remedy)
        given = frame["label"].str.strip().str.lower()
        annotation.check(frame.assign(label=given.where(given != "", NONE)), results.texts, results.study.emotions, path)
        return annotation.as_letters(frame).assign(label=given)

    def _make(self, study: str | Path) -> None:
        self.text, self.message, self.study = widgets.HTML(), widgets.Label(), study
        self.progress = widgets.IntProgress(max=len(self.frame), layout={"width": "30em"})
        self.counted = widgets.Label()
        named = [f"{number} {printable(label)}" for number, label in enumerate(self.choices, 1)]
        self.buttons = [widgets.Button(description=name, layout={"width": "8em"}) for name in named]
        for button, label in zip(self.buttons, self.choices, strict=True):
            button.on_click(lambda _, label=label: self.answer(label))
        self.back = widgets.Button(description="Undo (u)")
        self.back.on_click(lambda _: self.undo())
        row = widgets.HBox([*self.buttons], layout={"flex_flow": "row wrap"})
        top = widgets.HBox([self.progress, self.counted])
        hint = widgets.Label("Which emotion does this text carry? Click here once; then a number key answers, and u takes back.")
        actions = {str(number): partial(self.answer, label) for number, label in enumerate(self.choices, 1)}
        box = widgets.VBox([top, hint, self.text, row, widgets.HBox([self.back, self.message])])
        self.box = keyed(box, actions | {"u": self.undo})

    @property
    def place(self) -> int | None:
        """Return the place of the text that is shown: the first without a label; None where all have one."""
        return next((place for place, label in enumerate(self.frame["label"]) if not label), None)

    def answer(self, label: str) -> None:
        """Give the shown text its label, and keep it."""
        if (place := self.place) is not None and self._keep(place, label):
            self.answered.append(place)
            self._show()

    def undo(self) -> None:
        """Take the last label back, also one of an earlier session; its text is the next to be shown where it comes first."""
        if self.answered and self._keep(self.answered[-1], ""):
            self.answered.pop()
            self._show()

    def _keep(self, place: int, label: str) -> bool:
        """Write the person's file with this label, whole, and return whether that went well; else nothing is changed."""
        fresh = self.frame.copy()
        fresh.loc[place, "label"] = label
        try:
            files.write(self.path, fresh.to_csv(index=False, lineterminator="\n"))
        except OSError as error:
            self.message.value = f"Not kept: {error.strerror}. Mend that, and answer again."
            return False
        self.frame, self.message.value = fresh, ""
        return True

    def _show(self) -> None:
        done = len(self.answered)
        self.progress.value, self.counted.value = done, f"{done} of {len(self.frame)}"
        self.back.disabled = not done
        for button in self.buttons:
            button.disabled = self.place is None
        if self.place is None:
            text = f"All texts have a label. affq annotate {self.study} --labels {self.path} reads them back."
        else:
            text = self.frame["text"][self.place]
        self.text.value = f'<div style="{STYLE}">{escaped(text)}</div>'
