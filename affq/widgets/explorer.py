"""The explorer: widgets over one study's texts, runs and notes, for JupyterLab. What they show is made in `explore`."""

from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from ipympl.backend_nbagg import Canvas, FigureManager
from matplotlib.figure import Figure

from affq.analysis import NAMED, choose, disagreement
from affq.errors import InputError, printable
from affq.report import charts, escaped
from affq.results import keep_note, kept_notes
from affq.study import run_label
from affq.widgets import explore
from affq.widgets.keys import keyed

WIDE = {"width": "100%"}
COSTS = {"memory": "peak_bytes", "latency": "latency_s"}


class Explorer:
    """A study's texts and runs to look through: `texts`, `worth` and `budget` are boxes of widgets, to be shown.

    The other attributes are the widgets that are used: filters (models, precisions, engines, emotion, prompt), order, asked (the
    request that is shown), target and note, cost and run, memory_gb, seconds_a_text and users. Raises InputError if no run is
    complete.
    """

    def __init__(self, study: str | Path, results: str | Path) -> None:
        self.folder, self.explored = results, explore.load(study, results)
        self.results = self.explored.results
        self.kept = kept_notes(results, self.results.study)
        self._make_texts()
        self._make_worth()
        self._make_budget()
        self._filter(None)
        self._draw()
        self._advise()

    def _make_texts(self) -> None:
        texts = self.explored.texts
        self.models, self.precisions, self.engines = (self._several(texts, name) for name in NAMED)
        self.emotion, self.prompt = (self._one(texts, name) for name in ("emotion", "prompt_id"))
        self.order = widgets.ToggleButtons(options=["as asked", "most disagreement first"], style={"button_width": "auto"})
        self.asked = widgets.Select(rows=8, layout={"width": "34em"})
        self.side_by_side, self.noted = widgets.HTML(), widgets.HTML()
        self.target = widgets.Dropdown(description="note on")
        self.note = widgets.Textarea(placeholder="What struck you about this text?", layout={"width": "34em"}, rows=2)
        self.keep, self.message = widgets.Button(description="Keep the note"), widgets.Label()
        self.back, self.forward = (widgets.Button(description=word) for word in ("Previous (p)", "Next (n)"))
        for filter in (self.models, self.precisions, self.engines, self.emotion, self.prompt):
            filter.observe(lambda _: self._filter(self.asked.value), "value")
        self.order.observe(lambda _: self._filter(None), "value")  # from the top of the new order
        self.asked.observe(self._show, "value")
        self.back.on_click(lambda _: self._step(-1))
        self.forward.on_click(lambda _: self._step(1))
        self.keep.on_click(lambda _: self._keep())
        engines = [self.engines] if len(self.engines.options) > 1 else []
        filters = widgets.HBox([self.models, self.precisions, *engines, widgets.VBox([self.emotion, self.prompt, self.order])])
        buttons = widgets.VBox([self.back, self.forward, widgets.Label("Keys: n, p, and w to write a note; click here first.")])
        noting = widgets.HBox([self.target, self.note, widgets.VBox([self.keep, self.message])])
        box = widgets.VBox([filters, widgets.HBox([self.asked, buttons]), self.side_by_side, noting, self.noted], layout=WIDE)
        self.texts = keyed(box, {"n": lambda: self._step(1), "p": lambda: self._step(-1)}, writes="w")

    @staticmethod
    def _several(texts: pd.DataFrame, column: str) -> widgets.SelectMultiple:
        names = list(texts[column].unique())
        options = [(printable(name), name) for name in names]
        layout = {"width": "22em"}
        return widgets.SelectMultiple(options=options, value=names, rows=4, description=f"{column}s", layout=layout)

    @staticmethod
    def _one(texts: pd.DataFrame, column: str) -> widgets.Dropdown:
        options = [("all", ""), *((printable(name), name) for name in texts[column].unique())]
        return widgets.Dropdown(options=options, value="", description=column.removesuffix("_id"))

    def _chosen(self) -> pd.DataFrame:
        filters = {"emotion": self.emotion.value, "prompt_id": self.prompt.value}
        asked = {name: [value] for name, value in filters.items() if value}
        several = {"model": self.models.value, "precision": self.precisions.value, "engine": self.engines.value}
        return explore.chosen(self.explored.texts, **several, **asked)

    def _filter(self, former: explore.Request | None) -> None:
        """Choose texts by the filters, list what they were asked for, and show the former request where it is left."""
        self.here = self._chosen()
        asked = disagreement.requests(self.here)
        if self.order.index:
            asked = disagreement.most_first(asked)
        rows = [((row.prompt_id, row.emotion, row.sample), row.emotions, row.spread) for row in asked.itertuples()]
        options = [(self._label(*row), row[0]) for row in rows]
        self.asked.unobserve(self._show, "value")  # one filter, one look
        self.asked.options = options
        if options:
            self.asked.value = former if former in [value for _, value in options] else options[0][1]
        self.asked.observe(self._show, "value")
        self._show()
        self._show_run()

    def _label(self, request: explore.Request, emotions: int, spread: float) -> str:
        """Return how a request is listed. emotions, spread: as in disagreement.requests."""
        prompt, emotion, sample = request
        which = f", sample {sample + 1}" if self.results.study.samples > 1 else ""
        apart = "" if pd.isna(spread) else f", probabilities {spread:.2f} apart"
        judged = f"{emotions} emotion{'s' * (emotions != 1)} judged{apart}" if emotions else "not judged"
        return f"{printable(prompt)}: {emotion}{which} ({judged})"

    def _show(self, _: object = None) -> None:
        request = self.asked.value
        self.side_by_side.value = explore.side_by_side(self.explored, self.here, request)
        rows = explore.of_request(self.here, request)
        self.target.options = [(printable(run_label(row.model, row.precision, row.engine)), row.id) for row in rows.itertuples()]
        self.target.index = 0 if len(rows) else None
        self.message.value = ""
        self.noted.value = explore.notes(self.kept, rows)

    def _step(self, by: int) -> None:
        if self.asked.options:
            self.asked.index = (self.asked.index + by) % len(self.asked.options)

    def _keep(self) -> None:
        """Keep the note that was written; what was typed stays where that fails."""
        if self.target.value is None or not self.note.value.strip():
            self.message.value = "Choose a text, and write something first."
            return
        text = self.explored.texts.loc[self.target.value]
        try:
            row = keep_note(self.folder, self.results.study, text, self.note.value.strip())
        except OSError as error:
            self.message.value = f"Not kept: {error.strerror}."
            return
        self.kept.append(row)
        self._show()
        self.note.value, self.message.value = "", "Kept."

    def _make_worth(self) -> None:
        self.cost = widgets.ToggleButtons(options=list(COSTS.items()), description="against")
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        self.canvas = Canvas(figure)
        self.canvas.toolbar_visible = self.canvas.header_visible = self.canvas.footer_visible = self.canvas.resizable = False
        FigureManager(self.canvas, 0)
        self.run_texts = widgets.HTML()
        runs = self.explored.texts.drop_duplicates("run_id").itertuples()
        options = [(printable(run_label(row.model, row.precision, row.engine)), row.run_id) for row in runs]
        self.run = widgets.Select(options=options, index=0, rows=8, layout={"width": "34em"}, description="run")
        self.canvas.mpl_connect("pick_event", lambda event: setattr(self.run, "value", self.points[event.ind[0]]))
        self.cost.observe(lambda _: self._draw(), "value")
        self.run.observe(lambda _: self._show_run(), "value")
        self.run.observe(lambda _: self._draw(), "value")
        side = widgets.VBox([self.cost, self.run, widgets.Label("A click on a point chooses its run.")])
        self.worth = widgets.VBox([widgets.HBox([self.canvas, side]), self.run_texts], layout=WIDE)

    def _show_run(self) -> None:
        self.run_texts.value = explore.run_texts(self.here, self.run.value)

    def _draw(self) -> None:
        """Draw each run's F1 over its cost, the best F1 at each cost as a line, and the chosen run ringed."""
        runs, cost = self.results.judged, self.cost.value
        best = runs.loc[choose.frontier(runs, cost)["on_frontier"].to_numpy(), "run_id"]
        self.points = list(charts.at_cost(runs, cost)["run_id"])
        self.canvas.figure.clear()
        charts.f1_against_cost(runs, cost, axes=self.canvas.figure.add_subplot(), best=list(best), chosen=self.run.value)
        self.canvas.draw_idle()

    def _make_budget(self) -> None:
        given = self.results.study.budget
        self.memory_gb, self.seconds_a_text = (
            widgets.Text(
                value="" if limit is None else f"{limit:g}",
                placeholder="no limit",
                description=words,
                style={"description_width": "9em"},
            )
            for limit, words in ((given.memory_gb, "memory, GB"), (given.seconds_a_text, "seconds a text"))
        )
        self.users = widgets.Dropdown(
            options=explore.users(self.results), description="seconds of", style={"description_width": "9em"}
        )
        self.advice = widgets.HTML()
        for limit in (self.memory_gb, self.seconds_a_text, self.users):
            limit.observe(lambda _: self._advise(), "value")
        users = [self.users] if len(self.users.options) > 1 else []
        self.budget = widgets.VBox([self.memory_gb, self.seconds_a_text, *users, self.advice], layout=WIDE)

    def _advise(self) -> None:
        try:
            sentences = explore.advice(self.results, self.memory_gb.value, self.seconds_a_text.value, self.users.value)
        except InputError as error:
            sentences = str(error)
        self.advice.value = f"<p>{escaped(sentences)}</p>"
