"""The explorer: widgets over one study's texts, runs and notes, for JupyterLab. What they show is made in `explore`."""

import ipywidgets as widgets
from ipympl.backend_nbagg import Canvas, FigureManager
from matplotlib.figure import Figure

from affq.analysis import choose
from affq.errors import InputError, printable
from affq.report import charts
from affq.results import keep_note, kept_notes
from affq.widgets import explore
from affq.widgets.keys import keyed

WIDE = {"width": "100%"}
NAMED = 8  # so many points are all named in the chart; of more, the frontier's and the chosen run's
COSTS = {"memory": "peak_bytes", "latency": "latency_s"}
TITLES = {"peak_bytes": "peak memory", "latency_s": "latency"}
UNITS = {"peak_bytes": (1e6, "peak memory, MB"), "latency_s": (1, "seconds for a text, median")}


class Explorer:
    """A study's texts and runs to look through: `texts`, `worth` and `budget` are boxes of widgets, to be shown.

    The other attributes are the widgets that are used: filters (models, precisions, emotion, prompt), order, asked (the request
    that is shown), target and note, cost and run, memory_gb and seconds_a_text. Raises InputError if no run is complete.
    """

    def __init__(self, study, results):
        self.results, self.explored = results, explore.load(study, results)
        self.kept = kept_notes(results, self.explored.study)
        self._make_texts()
        self._make_worth()
        self._make_budget()
        self._filter(None)
        self._draw()
        self._advise()

    def _make_texts(self):
        texts = self.explored.texts
        self.models, self.precisions = (self._several(texts, name) for name in ("model", "precision"))
        self.emotion, self.prompt = (self._one(texts, name) for name in ("emotion", "prompt_id"))
        self.order = widgets.ToggleButtons(options=["as asked", "most disagreement first"], style={"button_width": "auto"})
        self.asked = widgets.Select(rows=8, layout={"width": "34em"})
        self.side_by_side, self.noted = widgets.HTML(), widgets.HTML()
        self.target = widgets.Dropdown(description="note on")
        self.note = widgets.Textarea(placeholder="What struck you about this text?", layout={"width": "34em"}, rows=2)
        self.keep, self.said = widgets.Button(description="Keep the note"), widgets.Label()
        self.back, self.forward = (widgets.Button(description=word) for word in ("Previous (p)", "Next (n)"))
        for filter in (self.models, self.precisions, self.emotion, self.prompt):
            filter.observe(lambda _: self._filter(self.asked.value), "value")
        self.order.observe(lambda _: self._filter(None), "value")  # from the top of the new order
        self.asked.observe(self._show, "value")
        self.back.on_click(lambda _: self._step(-1))
        self.forward.on_click(lambda _: self._step(1))
        self.keep.on_click(lambda _: self._keep())
        filters = widgets.HBox([self.models, self.precisions, widgets.VBox([self.emotion, self.prompt, self.order])])
        buttons = widgets.VBox([self.back, self.forward, widgets.Label("Keys: n, p, and w to write a note; click here first.")])
        noting = widgets.HBox([self.target, self.note, widgets.VBox([self.keep, self.said])])
        box = widgets.VBox([filters, widgets.HBox([self.asked, buttons]), self.side_by_side, noting, self.noted], layout=WIDE)
        self.texts = keyed(box, {"n": lambda: self._step(1), "p": lambda: self._step(-1)}, writes="w")

    @staticmethod
    def _several(texts, column):
        names = list(texts[column].unique())
        options = [(printable(name), name) for name in names]
        layout = {"width": "22em"}
        return widgets.SelectMultiple(options=options, value=names, rows=4, description=f"{column}s", layout=layout)

    @staticmethod
    def _one(texts, column):
        options = [("all", ""), *((printable(name), name) for name in texts[column].unique())]
        return widgets.Dropdown(options=options, value="", description=column.removesuffix("_id"))

    def _chosen(self):
        one = {"emotion": self.emotion.value, "prompt_id": self.prompt.value}
        asked = {name: [value] for name, value in one.items() if value}
        return explore.chosen(self.explored.texts, model=self.models.value, precision=self.precisions.value, **asked)

    def _filter(self, former):
        """Choose texts by the filters, list what they were asked for, and show the former request where it is left."""
        self.here = self._chosen()
        asked = explore.requests(self.here)
        if self.order.index:
            asked = explore.most_disagreed(asked)
        options = [(self._label(row), (row.prompt_id, row.emotion, row.sample)) for row in asked.itertuples()]
        self.asked.unobserve(self._show, "value")  # one filter, one look
        self.asked.options = options
        if options:
            self.asked.value = former if former in (value for _, value in options) else options[0][1]
        self.asked.observe(self._show, "value")
        self._show()
        self._show_run()

    def _label(self, row):
        sample = f", sample {row.sample + 1}" if self.explored.study.samples > 1 else ""
        spread = "" if row.spread != row.spread else f", probabilities {row.spread:.2f} apart"
        judged = f"{row.emotions} emotion{'s' * (row.emotions != 1)} judged{spread}" if row.emotions else "not judged"
        return f"{printable(row.prompt_id)}: {row.emotion}{sample} ({judged})"

    def _show(self, _=None):
        request = self.asked.value or (None, None, None)
        self.side_by_side.value = explore.side_by_side(self.explored, self.here, request)
        rows = explore.of_request(self.here, request)
        self.target.options = [(f"{printable(row.model)} {row.precision}", row.id) for row in rows.itertuples()]
        self.target.index = 0 if len(rows) else None
        self.said.value = ""
        self.noted.value = explore.notes(self.kept, rows)

    def _step(self, by):
        if self.asked.options:
            self.asked.index = (self.asked.index + by) % len(self.asked.options)

    def _keep(self):
        """Keep the note that was written; what was typed stays where that fails."""
        if self.target.value is None or not self.note.value.strip():
            self.said.value = "Choose a text, and write something first."
            return
        text = self.explored.texts.loc[self.target.value]
        try:
            row = keep_note(self.results, self.explored.study, text, self.note.value.strip())
        except OSError as error:
            self.said.value = f"Not kept: {error.strerror}."
            return
        self.kept.append(row)
        self._show()
        self.note.value, self.said.value = "", "Kept."

    def _make_worth(self):
        self.cost = widgets.ToggleButtons(options=list(COSTS.items()), description="against")
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        self.canvas = Canvas(figure)
        self.canvas.toolbar_visible = self.canvas.header_visible = self.canvas.footer_visible = self.canvas.resizable = False
        FigureManager(self.canvas, 0)
        self.canvas.mpl_connect("pick_event", lambda event: setattr(self.run, "value", self.points[event.ind[0]]))
        self.run_texts = widgets.HTML()
        runs = self.explored.texts.drop_duplicates("run_id").itertuples()
        options = [(f"{printable(row.model)} {row.precision}", row.run_id) for row in runs]
        self.run = widgets.Select(options=options, index=0, rows=8, layout={"width": "34em"}, description="run")
        self.cost.observe(lambda _: self._draw(), "value")
        self.run.observe(lambda _: self._show_run(), "value")
        self.run.observe(lambda _: self._draw(), "value")
        side = widgets.VBox([self.cost, self.run, widgets.Label("A click on a point chooses its run.")])
        self.worth = widgets.VBox([widgets.HBox([self.canvas, side]), self.run_texts], layout=WIDE)

    def _show_run(self):
        self.run_texts.value = explore.run_texts(self.here, self.run.value)

    def _draw(self):
        """Draw each run's F1 over its cost, its interval, the best F1 at each cost as a line, and the chosen run ringed."""
        figure, cost, (scale, label) = self.canvas.figure, self.cost.value, UNITS[self.cost.value]
        figure.clear()
        axes = figure.add_subplot()
        runs = self.explored.runs
        marked = choose.frontier(runs, cost)["on_frontier"]
        found = runs.assign(best=marked, cost=runs[cost].astype(float) / scale).dropna(subset=["emotion_f1", "cost"])
        found = found.sort_values(["cost", "emotion_f1"])
        self.points, right = list(found["run_id"]), 1.1 * found["cost"].max() if len(found) else 1
        best = found[found["best"]]
        if len(best):  # on to the edge: who can spend more can have it too
            highest = best["emotion_f1"]
            axes.step([*best["cost"], right], [*highest, highest.iloc[-1]], where="post", color="0.6", zorder=1)
        spread = [found["emotion_f1"] - found["emotion_f1_low"], found["emotion_f1_high"] - found["emotion_f1"]]
        axes.errorbar(found["cost"], found["emotion_f1"], yerr=spread, fmt="none", color="0.75", capsize=4, linewidth=1, zorder=1)
        colours = [charts.COLOURS[name] for name in found["precision"]]
        rings = ["black" if run_id == self.run.value else "none" for run_id in self.points]
        axes.scatter(found["cost"], found["emotion_f1"], s=110, color=colours, edgecolors=rings, linewidths=2, picker=8)
        if len(found) > NAMED:
            for precision in filter(set(found["precision"]).__contains__, charts.COLOURS):
                axes.scatter([], [], s=60, color=charts.COLOURS[precision], label=precision)
            axes.legend(frameon=False, fontsize="small", ncols=2)
            found = found[found["best"] | (found["run_id"] == self.run.value)]
        for number, row in enumerate(found.itertuples()):
            # Towards the side where there is room, and neighbours above and below their points in turn.
            name = row.precision if self.explored.runs["model"].nunique() < 2 else f"{printable(row.model)} {row.precision}"
            left = row.cost > right / 2
            style = {"xytext": (-9 if left else 9, -15 if number % 2 else 5), "ha": "right" if left else "left"}
            axes.annotate(name, (row.cost, row.emotion_f1), textcoords="offset points", size="small", **style)
        axes.set(xlabel=label, ylabel="macro-F1 of the emotion", xlim=(0, right), ylim=(0, 1.05))
        axes.set_title(f"Emotion F1 against {TITLES[cost]}", loc="left")
        self.canvas.draw_idle()

    def _make_budget(self):
        given = self.explored.study.budget
        self.memory_gb, self.seconds_a_text = (
            widgets.Text(
                value="" if limit is None else f"{limit:g}",
                placeholder="no limit",
                description=words,
                style={"description_width": "9em"},
            )
            for limit, words in ((given.memory_gb, "memory, GB"), (given.seconds_a_text, "seconds a text"))
        )
        self.advice = widgets.HTML()
        for limit in (self.memory_gb, self.seconds_a_text):
            limit.observe(lambda _: self._advise(), "value")
        self.budget = widgets.VBox([self.memory_gb, self.seconds_a_text, self.advice], layout=WIDE)

    def _advise(self):
        try:
            said = explore.advice(self.explored, self.memory_gb.value, self.seconds_a_text.value)
        except InputError as error:
            said = str(error)
        self.advice.value = f"<p>{explore.escaped(said)}</p>"
