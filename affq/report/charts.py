"""Charts: a frame of `Results`, in raw units, to Axes. Saves nothing.

A chart is as wide as a column of a paper; its letters are legible there, and on a page as narrow as a telephone's.
"""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any, Literal

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from affq.analysis import MEMORY, run_labels
from affq.errors import printable
from affq.inference import kernels as groups
from affq.models import PRECISIONS

# One colour and one mark a precision, in every chart; the colours stay apart for the colour-blind, the marks in grey.
PALETTE = [*sns.color_palette("colorblind", 10), *sns.color_palette("dark", 10)]
COLOURS = dict(zip(PRECISIONS, PALETTE, strict=False))
MARKS = dict(zip(PRECISIONS, "osD^vPX*<>dphH8", strict=False))
ENGINE_MARKS = "osD^vPX"  # where colours are precisions
LINES = ("-", "--", ":", "-.")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo")
WIDTH = 3.3  # inches
LINE = 24  # letters of a run's name before it is broken
NAMED = 8  # so many points are all named; of more, where there is a legend, the best at each cost and the chosen one
COSTS = {"peak_bytes": "peak memory", "latency_s": "latency"}  # of a run
# Charts look alike whatever a user's matplotlibrc says, in letters that come with matplotlib. A name is text, with whatever
# dollar signs. Letters stay letters in a PDF.
matplotlib.rcdefaults()
sns.set_theme(
    context="paper",
    style="whitegrid",
    font_scale=0.8,
    rc={"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "text.parse_math": False}
    | {"font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"]}
    | {"figure.dpi": 170, "pdf.fonttype": 42, "hatch.linewidth": 0.4, "legend.handlelength": 1.5, "legend.columnspacing": 1},
)


def _axes(rows: float, names: Iterable[str] = ()) -> Axes:
    """Return axes with room for so many rows; names: theirs, which may have several lines each."""
    lines = 1 + max((name.count("\n") for name in names), default=0)
    return plt.subplots(figsize=(WIDTH, 0.7 + max(0.24, 0.05 + 0.13 * lines) * rows), layout="constrained")[1]


def _note(
    axes: Axes,
    text: str,
    at: tuple[float, float | str],
    away: tuple[int, int],
    ha: Literal["left", "center", "right"] = "center",
    size: str = "small",
    color: str = "0.15",
) -> None:
    """Write a text beside a point; away: by how many points of type, to the right and up."""
    axes.annotate(text, at, xytext=away, textcoords="offset points", ha=ha, size=size, color=color)


def _title(axes: Axes, words: str) -> None:
    """Set a title at the left edge, over the names of the rows."""
    axes.figure.suptitle(words, x=0.01, ha="left", size="medium")


def _runs(frame: pd.DataFrame) -> pd.Series:
    """Return the name of each row's run for an axis: the precision, with its model and engine where there are several."""
    names = run_labels(frame).map(printable)
    if frame["model"].nunique() < 2 and frame["engine"].nunique() < 2:
        return names
    return names.map(lambda name: "\n".join(textwrap.wrap(name, LINE, drop_whitespace=False)))


def f1_by_emotion(f1: pd.DataFrame) -> Axes:
    """Draw F1 as a grid, runs by emotions, each cell with its figure. f1: Results.emotion_f1."""
    wide = f1.assign(run=_runs(f1)).pivot_table(index="run", columns="emotion", values="f1", sort=False)
    axes = _grid(wide, ".2f")
    _title(axes, "Emotion F1 by precision and emotion")
    return axes


def f1_by_judge(by_judge: pd.DataFrame) -> Axes:
    """Draw macro-F1 as a grid, runs by judges, each cell with its figure. by_judge: Results.by_judge."""
    wide = by_judge.assign(run=_runs).pivot_table(index="run", columns="judge", values="emotion_f1", sort=False)
    axes = _grid(wide.rename(columns=printable), ".2f")
    _title(axes, "Emotion F1 by judge")
    return axes


def _grid(wide: pd.DataFrame, form: str) -> Axes:
    axes = _axes(2 + len(wide), wide.index)
    style = {"cmap": "Greys", "linewidths": 1, "cbar": False, "annot_kws": {"size": "small"}}
    # seaborn would first try the names upright, where a long one has no room and is warned of.
    sns.heatmap(wide, vmin=0, vmax=1, annot=True, fmt=form, xticklabels=False, yticklabels=False, ax=axes, **style)
    axes.set_yticks([row + 0.5 for row in range(len(wide))], wide.index)
    places = [column + 0.5 for column in range(wide.shape[1])]
    axes.set_xticks(places, wide.columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set(xlabel="", ylabel="")
    return axes


def f1_by_precision(summary: pd.DataFrame) -> Axes:
    """Draw macro-F1 of each run, with emotion words masked, and what shuffled targets would give. summary: Results.summary."""
    scored = summary.dropna(subset="emotion_f1").assign(run=_runs)
    axes = _axes(2 + len(scored), scored["run"])
    sns.barplot(scored, y="run", x="emotion_f1", hue="precision", palette=COLOURS, legend=False, ax=axes)
    for row in scored.itertuples():
        _note(axes, f"{row.emotion_f1:.2f}", (row.emotion_f1, row.run), (2, 3), ha="left")
    _bars(axes, scored, "emotion_f1", label="95 %, prompts like these")
    label = "shuffled targets (chance)"
    axes.scatter(scored["emotion_f1_chance"], scored["run"], marker="|", s=120, color="black", label=label, zorder=3)
    known = scored.dropna(subset="emotion_f1_masked")
    axes.scatter(known["emotion_f1_masked"], known["run"], s=18, color="white", edgecolor="black", label="words masked", zorder=3)
    _legend_below(axes)
    axes.set(xlabel="macro-F1 of the emotion", ylabel="", xlim=(0, 1))
    _title(axes, "Emotion F1 by precision")
    return axes


def _spread(frame: pd.DataFrame, figure: str, unit: str = "") -> list[pd.Series]:
    """Return how far the ends of a figure's interval are below and above it; NaN where there are none."""
    value, low, high = (frame[f"{figure}{end}{unit}"] for end in ("", "_low", "_high"))
    return [value - low, high - value]


def _bars(axes: Axes, runs: pd.DataFrame, figure: str, unit: str = "", label: str = "") -> None:
    """Draw the intervals of a figure of the summary, each in the row of its run."""
    spread = _spread(runs, figure, unit)
    axes.errorbar(runs[figure + unit], runs["run"], xerr=spread, fmt="none", color="black", capsize=2.5, label=label)


def differences(frame: pd.DataFrame) -> Axes:
    """Draw each run's difference of F1 against its baseline, in points, with its interval and the chance of the other sign.

    frame: Results.differences.
    """
    overall = frame[(frame["family"] == "overall") & frame["wrong_sign"].notna()]
    drawn = overall.assign(run=_runs(overall) + " against " + overall["against"])
    axes = _axes(2 + 1.2 * len(drawn), drawn["run"])
    for row in drawn.itertuples():
        spread = [[row.estimate_points - row.low_points], [row.high_points - row.estimate_points]]
        mark, colour = MARKS[row.precision], COLOURS[row.precision]
        place = ([row.estimate_points], [row.run])
        axes.errorbar(*place, xerr=spread, fmt=mark, color=colour, markersize=5, capsize=3, linewidth=1.2)
        figures = f"{row.estimate_points:+z.1f}; the other sign: {row.wrong_sign:.0%}"
        _note(axes, figures, (row.estimate_points, row.run), (0, 5))
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set(xlabel="points of emotion F1,\n95 % interval for prompts like these", ylabel="", ylim=(len(drawn) - 0.5, -0.7))
    _title(axes, "What each precision costs, and how sure that is")
    return axes


def memory(parts: pd.DataFrame, peaks: pd.DataFrame) -> Axes:
    """Stack what each run's memory is made of at decode, MB, and mark its peaks while loading and at prefill.

    parts: Results.memory_parts; peaks: Results.memory.
    """
    names = {"weights_bytes": "stored weights", "cache_bytes": "keys and values", "activations_bytes": "activations, workspace"}
    names |= {"rest_bytes": "rest"}
    megabytes = parts.reindex(columns=list(names)).astype(float).fillna(0) / 1e6
    axes = _stacked(megabytes.rename(columns=names).set_axis(_runs(parts)), "Greys_r")
    for name, marker, words in (("load_peak_bytes", "|", "peak while loading"), ("prefill_peak_bytes", "x", "peak at prefill")):
        if name in peaks and (known := peaks.dropna(subset=name)).size:
            axes.scatter(known[name].astype(float) / 1e6, _runs(known), marker=marker, s=40, color="C3", label=words, zorder=3)
    for row, total in enumerate(megabytes.sum(axis="columns")):
        _note(axes, f"{total:,.0f}", (total, row), (0, 8))
    axes.set(xlabel="MB, generating in the study's batch", ylabel="", ylim=(len(parts) - 0.5, -0.7))
    _legend_below(axes)
    _title(axes, "Memory at decode")
    return axes


def _stacked(frame: pd.DataFrame, palette: str) -> Axes:
    """Stack the columns of a frame, one bar a row."""
    axes = _axes(2 + 1.4 * len(frame), frame.index)
    colours = sns.color_palette(palette, len(frame.columns))
    frame.plot.barh(stacked=True, ax=axes, width=0.6, color=colours, edgecolor="0.3", linewidth=0.5, legend=False)
    for bars, hatch in zip(axes.containers, cycle(HATCHES), strict=False):
        plt.setp(list(bars), hatch=hatch)
    axes.invert_yaxis()
    return axes


def _legend_below(axes: Axes) -> None:
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def throughput(points: pd.DataFrame) -> Axes:
    """Draw tokens a second, and the peak of memory, over the batch size, a line a run. points: Results.throughput."""
    drawn = points.assign(run=_runs, megabytes=points["peak_bytes"].astype(float) / 1e6)
    figure, (speed, room) = plt.subplots(2, 1, figsize=(WIDTH, 3.6), layout="constrained")
    for axes, column, label in ((speed, "tokens_per_s", "tokens a second"), (room, "megabytes", "peak, MB")):
        style = {"hue": "precision", "palette": COLOURS, "style": "precision", "markers": MARKS, "dashes": False}
        style |= {"legend": axes is speed, "errorbar": None}
        sns.lineplot(drawn, x="batch", y=column, units="run", estimator=None, ax=axes, **style | {"hue_order": _present(drawn)})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(drawn["batch"].unique()), [f"{size:g}" for size in sorted(drawn["batch"].unique())])
        axes.set(xlabel="texts at once", ylabel=label, ylim=(0, None))
    if drawn["model"].nunique() > 1:  # one colour a precision: the lines are told apart by name
        for _, line in drawn.groupby("run", sort=False):
            last = line.iloc[-1]
            speed.annotate(last["run"], (last["batch"], last["tokens_per_s"]), size="small", ha="right", va="bottom")
    speed.legend(frameon=False, title="")
    _title(speed, "Throughput over batch size")
    return speed


def _present(frame: pd.DataFrame) -> list[str]:
    return [name for name in PRECISIONS if name in set(frame["precision"])]


def kernels(frame: pd.DataFrame) -> Axes:
    """Stack the shares of a profiled text's time by what it goes to, a bar a run and phase. frame: Results.kernels."""
    shares = frame.assign(bar=_runs(frame) + ", " + frame["phase"])
    wide = shares.pivot_table(index="bar", columns="group", values="share", aggfunc="sum", fill_value=0, sort=False)
    axes = _stacked(100 * wide.reindex(columns=groups.EVERY, fill_value=0), "Set2")
    axes.set(xlabel="per cent of the phase's time, profiled", ylabel="", xlim=(0, 100))
    _title(axes, "Where a text's time goes")
    _legend_below(axes)
    return axes


def repetition(curves: pd.DataFrame) -> Axes:
    """Draw the share of texts that do not repeat themselves yet, over words, with its band, a line a run.

    curves: Results.repetition.
    """
    axes, drawn = _axes(9), curves.assign(run=_runs)
    engines = list(drawn["engine"].unique())
    for (run, precision, engine), curve in drawn.groupby(["run", "precision", "engine"], sort=False):
        style = {"color": COLOURS[precision], "linestyle": LINES[engines.index(engine) % len(LINES)]}
        axes.step(curve["words"], curve["not_repeating"], where="post", label=run.replace("\n", " "), **style)
        axes.fill_between(curve["words"], curve["low"], curve["high"], step="post", color=style["color"], alpha=0.12, linewidth=0)
    axes.set(xlabel="words", ylabel="share not repeating yet", xlim=(0, None), ylim=(0, 1.02))
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, frameon=False)
    _title(axes, "Where repetition sets in")
    return axes


def soak(rounds: pd.DataFrame) -> Axes:
    """Draw how far memory and time are from their medians over the minutes of each soak; a line where another process begins.

    rounds: Results.soak_rounds.
    """
    drawn = rounds.assign(run=_runs, minutes=(rounds["start_s"] + rounds["seconds"]) / 60, time=100 * rounds["latency_change"])
    runs = list(drawn.groupby("run", sort=False))
    figure, rows = plt.subplots(2 * len(runs), 1, figsize=(WIDTH, 0.4 + 2.3 * len(runs)), layout="constrained", squeeze=False)
    for (run, soak), memory, time in zip(runs, rows[::2, 0], rows[1::2, 0], strict=True):
        for (name, column), style in zip(MEMORY.items(), ("-", "--", ":"), strict=True):
            if (known := soak.dropna(subset=column)).size:
                held = known[column].astype(float)
                label, change = f"{name}, {held.median() / 1e6:,.0f} MB", 100 * (held / held.median() - 1)
                memory.plot(known["minutes"], change, style, color="black", linewidth=1, label=label)
        memory.set(ylabel="memory, %", xticklabels=[])
        memory.set_title(run, loc="left", size="small")
        memory.legend(frameon=False, fontsize="small")
        time.plot(soak["minutes"], soak["time"], ".", color="black", markersize=2)
        time.set(ylabel="seconds, %")
        for axes, least in ((memory, 2), (time, 10)):  # what wobbles by less is not to fill the picture
            reach = max(least, *map(abs, axes.get_ylim()))
            axes.set_ylim(-reach, reach)
        for start in soak.loc[soak["process"].diff() > 0, "minutes"]:
            for axes in (memory, time):
                axes.axvline(start, color="C3", linewidth=0.8)
    rows[-1, 0].set_xlabel("minutes")
    _title(rows[0, 0], "Memory and time over a soak")
    return rows[0, 0]


def _kind(summary: pd.DataFrame) -> str:
    words = {"rss": "resident memory", "vram_allocated": "allocated on the GPU"}
    return ", ".join(words.get(kind, kind) for kind in summary["peak_kind"].dropna().unique()) or "unknown"


def latency(readings: pd.DataFrame, summary: pd.DataFrame) -> Axes:
    """Draw each timed text's seconds, the median and its interval, for each run. The frames are those of Results."""
    timed = readings.assign(run=_runs)
    axes = _axes(2 + 1.2 * timed["run"].nunique(), timed["run"])
    style = {"palette": COLOURS, "legend": False, "alpha": 0.7, "jitter": 0.2, "size": 3}
    state = np.random.get_state()
    np.random.seed(0)  # where seaborn takes its jitter from: the same readings give the same picture
    sns.stripplot(timed, y="run", x="latency_s", hue="precision", ax=axes, **style)
    np.random.set_state(state)
    known = summary.dropna(subset="latency_s").assign(run=_runs)
    axes.scatter(known["latency_s"], known["run"], marker="|", s=150, color="black", label="median", zorder=3)
    _bars(axes, known, "latency", "_s", "its 95 % interval")
    for run, median in zip(known["run"], known["latency_s"], strict=True):
        _note(axes, f"{median:.2f}", (median, run), (0, 7))
    axes.set_ylim(len(known) - 0.5, -0.8)  # room for the first median's figure
    _legend_below(axes)
    tokens = ", ".join(str(n) for n in sorted(timed["new_tokens"].unique()))
    axes.set(xlabel=f"seconds for a text of {tokens} tokens,\none prompt at a time", ylabel="", xlim=(0, None))
    _title(axes, "Latency")
    return axes


def at_cost(summary: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Return the runs that have an F1 and a cost, by cost: the points of `f1_against_cost`, in their order."""
    known = summary.dropna(subset=["emotion_f1", cost]).astype({cost: float})
    return known.sort_values([cost, "emotion_f1"], kind="stable").reset_index(drop=True)


def f1_against_cost(
    summary: pd.DataFrame,
    cost: str = "peak_bytes",
    *,
    axes: Axes | None = None,
    best: Sequence[str] = (),
    chosen: str | None = None,
) -> Axes:
    """Draw each run's macro-F1 over its peak memory or latency, labelled at the point, with its interval.

    cost: `peak_bytes` or `latency_s`. best: ids of the runs on the frontier, which a line joins. chosen: the id of a run to
    ring. On axes that are given a click picks a point, and of many points a legend tells those that have no room for a name.
    """
    drawn, scale = at_cost(summary, cost), 1e6 if cost == "peak_bytes" else 1
    drawn = drawn.assign(run=_runs, at=drawn[cost] / scale, height=drawn["emotion_f1"])
    picked, axes = axes is not None, axes or _axes(8)
    right = 1.15 * drawn["at"].max() if len(drawn) else 1
    frontier = drawn[drawn["run_id"].isin(best)]
    if len(frontier):  # on to the edge: who can spend more can have it too
        highest = frontier["emotion_f1"]
        axes.step([*frontier["at"], right], [*highest, highest.iloc[-1]], where="post", color="0.6", zorder=1)
    spread = _spread(drawn, "emotion_f1")
    axes.errorbar(drawn["at"], drawn["emotion_f1"], yerr=spread, fmt="none", color="0.6", capsize=2.5, linewidth=0.8)
    colours = [COLOURS[name] for name in drawn["precision"]]
    rings = ["black" if run_id == chosen else "none" for run_id in drawn["run_id"]]
    size, reach = (110, 8) if picked else (35, None)
    named = drawn
    if picked or drawn["engine"].nunique() < 2:  # one collection of points, of which a click picks one
        axes.scatter(
            drawn["at"], drawn["emotion_f1"], s=size, color=colours, edgecolors=rings, linewidths=2, picker=reach, zorder=3
        )
    else:
        named = _by_engine(axes, drawn, summary)
    if picked and len(drawn) > NAMED:
        for precision in _present(drawn):
            axes.scatter([], [], color=COLOURS[precision], label=precision)
        axes.legend(frameon=False, fontsize="small", ncols=2)
        named = drawn[drawn["run_id"].isin([*best, chosen])]
    _name_points(axes, named, right, (9, "small") if picked else (5, "medium"))
    chance = summary["emotion_f1_chance"].mean()
    axes.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    _note(axes, "chance", (0, chance), (2, 2), ha="left", size="medium", color="0.3")
    labels = {"peak_bytes": f"peak while generating, MB ({_kind(drawn)})", "latency_s": "seconds for a text, median"}
    axes.set(xlabel=labels[cost], ylabel="macro-F1 of the emotion", xlim=(0, right), ylim=(0, 1.05))
    _title(axes, f"Emotion F1 against {COSTS[cost]}")
    return axes


def _name_points(axes: Axes, points: pd.DataFrame, right: float, style: tuple[int, str]) -> None:
    """Write each run's name beside its point, where there is more room; neighbours above and below their points in turn.

    style: how far away, in points of type, and in what size.
    """
    away, size = style
    ends = [0, *points["at"], right]
    for number, (row, before, after) in enumerate(zip(points.itertuples(), ends, ends[2:], strict=False)):
        is_left = row.at - before > after - row.at
        by = (-away if is_left else away, -9 if number % 2 else 3)
        _note(axes, row.run, (row.at, row.height), by, ha="right" if is_left else "left", size=size)


def time_against_memory(summary: pd.DataFrame) -> Axes:
    """Draw seconds for a text over peak memory, a colour a precision and a mark an engine. summary: Results.summary."""
    known = summary.dropna(subset=["peak_bytes", "latency_s"]).astype({"peak_bytes": float}).sort_values("peak_bytes")
    drawn = known.assign(run=_runs, at=known["peak_bytes"] / 1e6, height=known["latency_s"])
    axes, right = _axes(9), 1.15 * drawn["at"].max() if len(drawn) else 1
    spread = _spread(drawn, "latency", "_s")
    axes.errorbar(drawn["at"], drawn["latency_s"], yerr=spread, fmt="none", color="0.6", capsize=2.5, linewidth=0.8)
    for number, row in enumerate(_by_engine(axes, drawn, summary).itertuples()):  # neighbours above and below in turn
        _note(axes, row.run, (row.at, row.height), (0, -13 if number % 2 else 6), size="medium")
    axes.set(
        xlabel=f"peak while generating, MB ({_kind(drawn)})", ylabel="seconds for a text, median", xlim=(0, right), ylim=(0, None)
    )
    _title(axes, "Time against memory, by engine")
    return axes


def _by_engine(axes: Axes, points: pd.DataFrame, summary: pd.DataFrame) -> pd.DataFrame:
    """Draw points with the mark of their engine, in the colour of their precision; return them called by precision alone.

    points: at, height, precision, engine. A legend says which mark is whose, the same in every chart of a study.
    """
    for engine, runs in points.groupby("engine", sort=False):
        mark, colours = _engine_mark(engine, summary), [COLOURS[name] for name in runs["precision"]]
        axes.scatter(runs["at"], runs["height"], s=35, color=colours, marker=mark, zorder=3)
        axes.scatter([], [], color="0.3", marker=mark, label=printable(engine))
    _legend_below(axes)
    return points.assign(run=points["precision"])


def latency_over_throughput(levels: pd.DataFrame) -> Axes:
    """Draw a text's seconds over the texts that come a second, a line a run: the median, and the 90th percentile thinner.

    A point is a level of the closed loop, with its number of streams. levels: Results.under_load.
    """
    drawn = levels[levels["loop"] == "closed"].dropna(subset="latency_p50_s").assign(run=_runs)
    axes = _axes(9)
    for run, row, points in _by_run(drawn):
        style = {"color": COLOURS[row.precision], "marker": _engine_mark(row.engine, levels), "markersize": 4}
        axes.plot(points["texts_per_s"], points["latency_p50_s"], **style, label=run)
        axes.plot(points["texts_per_s"], points["latency_p90_s"], **style | {"markersize": 0}, linewidth=0.7, linestyle="--")
        for point in points.itertuples():
            _note(axes, f"{point.streams}", (point.texts_per_s, point.latency_p50_s), (0, 4))
    axes.plot([], [], color="0.3", linewidth=0.7, linestyle="--", label="90th percentile")
    axes.update_datalim([(0, 0)])
    axes.margins(0.08)
    axes.autoscale_view()
    axes.set(xlabel="texts a second", ylabel="seconds for a text, median", xlim=(0, None), ylim=(0, None))
    _legend_below(axes)
    _title(axes, "Latency over throughput, by streams")
    return axes


def latency_over_rate(levels: pd.DataFrame) -> Axes:
    """Draw a text's seconds over the texts that are asked for a second, a line a run: median, and the 90th percentile thinner.

    A hollow point is a rate that is not kept up with. levels: Results.under_load.
    """
    drawn = levels[levels["loop"] == "open"].dropna(subset="latency_p50_s").assign(run=_runs)
    axes = _axes(9)
    for run, row, points in _by_run(drawn):
        colour, mark = COLOURS[row.precision], _engine_mark(row.engine, levels)
        axes.plot(points["rate"], points["latency_p50_s"], color=colour, marker=mark, markersize=4, label=run)
        axes.plot(points["rate"], points["latency_p90_s"], color=colour, linewidth=0.7, linestyle="--")
        faces = [colour if keeps_up else "white" for keeps_up in points["keeps_up"]]
        axes.scatter(points["rate"], points["latency_p50_s"], s=22, color=faces, edgecolors=[colour], marker=mark, zorder=3)
    axes.plot([], [], color="0.3", linewidth=0.7, linestyle="--", label="90th percentile")
    if not drawn["keeps_up"].all():
        axes.scatter([], [], s=22, color="white", edgecolors="0.3", label="not kept up with")
    axes.set(xscale="log", yscale="log", xlabel="texts asked for a second", ylabel="seconds for a text, median")
    rates = sorted(drawn["rate"].unique())
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    _legend_below(axes)
    _title(axes, "Latency at a given rate")
    return axes


def f1_under_load(texts: pd.DataFrame) -> Axes:
    """Draw emotion F1 over the number of streams, a line a run, with 95 % intervals. texts: Results.texts_under_load."""
    drawn = texts[texts["loop"] == "closed"].dropna(subset="emotion_f1").assign(run=_runs)
    axes, places = _axes(8), sorted(drawn["streams"].unique())
    runs = list(drawn["run"].unique())
    for run, row, points in _by_run(drawn):
        aside = 0.12 * (runs.index(run) - (len(runs) - 1) / 2)  # so that intervals stand side by side
        at = [places.index(streams) + aside for streams in points["streams"]]
        style = {"color": COLOURS[row.precision], "marker": _engine_mark(row.engine, texts), "markersize": 4, "capsize": 2}
        axes.errorbar(at, points["emotion_f1"], yerr=_spread(points, "emotion_f1"), **style, linewidth=0.9, label=run)
    axes.set_xticks(range(len(places)), [f"{streams}" for streams in places])
    axes.set(xlabel="streams", ylabel="macro-F1 of the emotion", ylim=(0, 1.05))
    _legend_below(axes)
    _title(axes, "Emotion F1 under load")
    return axes


def _by_run(drawn: pd.DataFrame) -> Iterable[tuple[str, Any, pd.DataFrame]]:
    """Yield each run's name and first row, with its rows in the order of its levels."""
    for run, points in drawn.groupby("run", sort=False):
        yield str(run), next(points.itertuples()), points.sort_values("level")


def _engine_mark(engine: str, every: pd.DataFrame) -> str:
    """Return the mark of an engine: the same in every chart of these runs."""
    return ENGINE_MARKS[list(every["engine"].unique()).index(engine) % len(ENGINE_MARKS)]


def judged_control(texts: pd.DataFrame, emotions: Sequence[str]) -> Axes:
    """Draw how the judge reads the texts that were asked for no emotion: each run's shares by emotion. texts: Results.texts."""
    control = texts[texts["emotion"].isna()].assign(run=_runs)
    shares = control.groupby("run", sort=False)["judged_emotion"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=[*emotions, *shares.columns.difference(emotions)], fill_value=0)
    axes = _grid(shares, ".0%")
    axes.set_xlabel("judged emotion")
    _title(axes, "Texts that were asked for no emotion")
    return axes


def reliability(bins: Sequence[dict[str, float]]) -> Axes:
    """Draw the share of right answers over their mean probability, against the diagonal. bins: a card's calibration."""
    axes = _axes(7)
    axes.axline((0, 0), slope=1, color="0.4", linestyle="--", linewidth=1)
    confidence, accuracy = ([row[name] for row in bins] for name in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, marker="o", color="black")
    for row in bins:
        _note(axes, str(row["texts"]), (row["confidence"], row["accuracy"]), (4, -7), ha="left", color="0.3")
    axes.set(xlabel="probability of the answer\n(mean of a bin, with its texts)", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    _title(axes, "Is the judge as often right as it says?")
    return axes
