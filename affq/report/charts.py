"""Charts: a frame of `tables`, in raw units, to Axes. Saves nothing.

A chart is as wide as a column of a paper; its letters are legible there, and on a page as narrow as a telephone's.
"""

import textwrap
from itertools import cycle

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import seaborn as sns

from affq.errors import printable
from affq.models import PRECISIONS

# One colour and one mark a precision, in every chart; the colours stay apart for the colour-blind, the marks in grey.
COLOURS = dict(zip(PRECISIONS, sns.color_palette("colorblind", len(PRECISIONS)), strict=True))
MARKS = dict(zip(PRECISIONS, "osD^vPX*", strict=True))
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo")
WIDTH = 3.3  # inches
LINE = 24  # letters of a run's name before it is broken
# A name is text, with whatever dollar signs. Letters stay letters in a PDF.
sns.set_theme(
    context="paper",
    style="whitegrid",
    font_scale=0.8,
    rc={"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "text.parse_math": False}
    | {"figure.dpi": 170, "pdf.fonttype": 42, "hatch.linewidth": 0.4, "legend.handlelength": 1.5, "legend.columnspacing": 1},
)


def _axes(rows, names=()):
    """Make axes with room for so many rows; names: theirs, which may have several lines each."""
    lines = 1 + max((name.count("\n") for name in names), default=0)
    return plt.subplots(figsize=(WIDTH, 0.7 + max(0.24, 0.05 + 0.13 * lines) * rows), layout="constrained")[1]


def _title(axes, words):
    """Set a title at the left edge, over the names of the rows."""
    axes.figure.suptitle(words, x=0.01, ha="left", size="medium")


def _runs(frame):
    """Name each row's run for an axis: the precision, with the model before it where there are several."""
    precision = frame["precision"].astype(str)
    if frame["model"].nunique() < 2:
        return precision
    names = frame["model"].map(printable) + " " + precision
    return names.map(lambda name: "\n".join(textwrap.wrap(name, LINE, drop_whitespace=False)))


def f1_by_emotion(f1):
    """Draw F1 as a grid, runs by emotions, each cell with its figure. f1: tables.emotion_f1."""
    wide = f1.assign(run=_runs(f1)).pivot_table(index="run", columns="emotion", values="f1", sort=False)
    axes = _grid(wide, ".2f")
    _title(axes, "Emotion F1 by precision and emotion")
    return axes


def f1_by_judge(by_judge):
    """Draw macro-F1 as a grid, runs by judges, each cell with its figure. by_judge: agreement.by_judge."""
    wide = by_judge.assign(run=_runs).pivot_table(index="run", columns="judge", values="emotion_f1", sort=False)
    axes = _grid(wide.rename(columns=printable), ".2f")
    _title(axes, "Emotion F1 by judge")
    return axes


def _grid(wide, form):
    axes = _axes(2 + len(wide), wide.index)
    style = {"cmap": "Greys", "linewidths": 1, "cbar": False, "annot_kws": {"size": "small"}}
    # seaborn would first try the names upright, where a long one has no room and is warned of.
    sns.heatmap(wide, vmin=0, vmax=1, annot=True, fmt=form, xticklabels=False, yticklabels=False, ax=axes, **style)
    axes.set_yticks([row + 0.5 for row in range(len(wide))], wide.index)
    places = [column + 0.5 for column in range(wide.shape[1])]
    axes.set_xticks(places, wide.columns, rotation=35, ha="right", rotation_mode="anchor")
    axes.set(xlabel="", ylabel="")
    return axes


def f1_by_precision(summary):
    """Draw macro-F1 of each run, with emotion words masked, and what shuffled targets would give. summary: tables.summary."""
    scored = summary.dropna(subset="emotion_f1").assign(run=_runs)
    axes = _axes(2 + len(scored), scored["run"])
    sns.barplot(scored, y="run", x="emotion_f1", hue="precision", palette=COLOURS, legend=False, ax=axes)
    for row in scored.itertuples():
        place = {"xytext": (2, 3), "textcoords": "offset points", "size": "small"}
        axes.annotate(f"{row.emotion_f1:.2f}", (row.emotion_f1, row.run), **place)
    _spread(axes, scored, "emotion_f1", scored["run"])
    chance = {"marker": "|", "s": 120, "color": "black", "label": "shuffled targets (chance)"}
    axes.scatter(scored["emotion_f1_chance"], scored["run"], zorder=3, **chance)
    known = scored.dropna(subset="emotion_f1_masked")
    axes.scatter(known["emotion_f1_masked"], known["run"], s=18, color="white", edgecolor="black", label="words masked", zorder=3)
    _legend_below(axes)
    axes.set(xlabel="macro-F1 of the emotion", ylabel="", xlim=(0, 1))
    _title(axes, "Emotion F1 by precision")
    return axes


def _spread(axes, frame, figure, at):
    """Draw the intervals of a figure of the summary, where there are ends."""
    spread = [frame[figure] - frame[f"{figure}_low"], frame[f"{figure}_high"] - frame[figure]]
    axes.errorbar(frame[figure], at, xerr=spread, fmt="none", color="black", capsize=2.5, label="95 %, prompts like these")


def differences(frame):
    """Draw each run's difference of F1 against its baseline, in points, with its interval and the chance of the other sign.

    frame: comparison.differences.
    """
    overall = frame[(frame["family"] == "overall") & frame["wrong_sign"].notna()]
    drawn = overall.assign(run=_runs(overall) + " against " + overall["against"])
    axes = _axes(2 + 1.2 * len(drawn), drawn["run"])
    for row in drawn.itertuples():
        spread = [[row.estimate_points - row.low_points], [row.high_points - row.estimate_points]]
        style = {"fmt": MARKS[row.precision], "markersize": 5, "capsize": 3, "linewidth": 1.2}
        axes.errorbar([row.estimate_points], [row.run], xerr=spread, color=COLOURS[row.precision], **style)
        said = f"{row.estimate_points:+.1f}; the other sign: {row.wrong_sign:.0%}"
        axes.annotate(said, (row.estimate_points, row.run), xytext=(0, 5), textcoords="offset points", ha="center", size="small")
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set(xlabel="points of emotion F1,\n95 % interval for prompts like these", ylabel="", ylim=(len(drawn) - 0.5, -0.7))
    _title(axes, "What each precision costs, and how sure that is")
    return axes


def memory(parts, peaks):
    """Stack what each run's memory is made of at decode, MB, and mark its peaks while loading and at prefill.

    parts: resources.memory_parts; peaks: resources.memory.
    """
    names = {"weights_bytes": "stored weights", "cache_bytes": "keys and values", "activations_bytes": "activations, workspace"}
    names |= {"rest_bytes": "rest"}
    megabytes = parts.reindex(columns=list(names)).astype(float).fillna(0) / 1e6
    axes = _stacked(megabytes.rename(columns=names).set_axis(_runs(parts)), "Greys_r")
    for name, marker, words in (("load_peak_bytes", "|", "peak while loading"), ("prefill_peak_bytes", "x", "peak at prefill")):
        if name in peaks and (known := peaks.dropna(subset=name)).size:
            axes.scatter(known[name].astype(float) / 1e6, _runs(known), marker=marker, s=40, color="C3", label=words, zorder=3)
    for row, total in enumerate(megabytes.sum(axis="columns")):
        axes.annotate(f"{total:,.0f}", (total, row), xytext=(0, 8), textcoords="offset points", ha="center", size="small")
    axes.set(xlabel="MB, generating in the study's batch", ylabel="", ylim=(len(parts) - 0.5, -0.7))
    _legend_below(axes)
    _title(axes, "Memory at decode")
    return axes


def _stacked(frame, palette):
    """Stack the columns of a frame, one bar a row."""
    axes = _axes(2 + 1.4 * len(frame), frame.index)
    colours = sns.color_palette(palette, len(frame.columns))
    frame.plot.barh(stacked=True, ax=axes, width=0.6, color=colours, edgecolor="0.3", linewidth=0.5, legend=False)
    for bars, hatch in zip(axes.containers, cycle(HATCHES), strict=False):
        plt.setp(bars.patches, hatch=hatch)
    axes.invert_yaxis()
    return axes


def _legend_below(axes):
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)


def throughput(points):
    """Draw tokens a second, and the peak of memory, over the batch size, a line a run. points: resources.throughput."""
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


def _present(frame):
    return [name for name in PRECISIONS if name in set(frame["precision"])]


def kernels(found, groups):
    """Stack the shares of a profiled text's time by what it goes to, a bar a run and phase. found: resources.kernels."""
    shares = found.assign(bar=_runs(found) + ", " + found["phase"])
    wide = shares.pivot_table(index="bar", columns="group", values="share", aggfunc="sum", fill_value=0, sort=False)
    axes = _stacked(100 * wide.reindex(columns=groups, fill_value=0), "Set2")
    axes.set(xlabel="per cent of the phase's time, profiled", ylabel="", xlim=(0, 100))
    _title(axes, "Where a text's time goes")
    _legend_below(axes)
    return axes


def _kind(summary):
    words = {"rss": "resident memory", "vram_allocated": "allocated on the GPU"}
    return ", ".join(words.get(kind, kind) for kind in summary["peak_kind"].dropna().unique())


def latency(readings, summary):
    """Draw each timed text's seconds, the median and its interval, for each run.

    readings: resources.latency; summary: tables.summary.
    """
    timed = readings.assign(run=_runs)
    axes = _axes(2 + 1.2 * timed["run"].nunique(), timed["run"])
    style = {"palette": COLOURS, "legend": False, "alpha": 0.7, "jitter": 0.2, "size": 3}
    sns.stripplot(timed, y="run", x="latency_s", hue="precision", ax=axes, **style)
    known = summary.dropna(subset="latency_s").assign(run=_runs)
    axes.scatter(known["latency_s"], known["run"], marker="|", s=150, color="black", label="median", zorder=3)
    spread = [known["latency_s"] - known["latency_low_s"], known["latency_high_s"] - known["latency_s"]]
    axes.errorbar(
        known["latency_s"], known["run"], xerr=spread, fmt="none", color="black", capsize=2.5, label="its 95 % interval"
    )
    for run, median in zip(known["run"], known["latency_s"], strict=True):
        axes.annotate(f"{median:.2f}", (median, run), xytext=(0, 7), textcoords="offset points", ha="center", size="small")
    axes.set_ylim(len(known) - 0.5, -0.8)  # room for the first median's figure
    _legend_below(axes)
    tokens = ", ".join(str(n) for n in sorted(timed["new_tokens"].unique()))
    axes.set(xlabel=f"seconds for a text of {tokens} tokens,\none prompt at a time", ylabel="", xlim=(0, None))
    _title(axes, "Latency")
    return axes


def f1_against_memory(summary):
    """Draw each run's macro-F1 over its peak memory, labelled at the point. summary: tables.summary."""
    drawn = summary.dropna(subset=["emotion_f1", "peak_bytes"]).assign(run=_runs)
    drawn = drawn.assign(megabytes=drawn["peak_bytes"].astype(float) / 1e6)
    axes = _axes(8)
    spread = [drawn["emotion_f1"] - drawn["emotion_f1_low"], drawn["emotion_f1_high"] - drawn["emotion_f1"]]
    style = {"fmt": "none", "color": "0.6", "capsize": 2.5, "linewidth": 0.8}
    axes.errorbar(drawn["megabytes"], drawn["emotion_f1"], yerr=spread, **style)
    axes.scatter(drawn["megabytes"], drawn["emotion_f1"], color=[COLOURS[name] for name in drawn["precision"]], s=35, zorder=3)
    right_edge = 1.15 * drawn["megabytes"].max() if len(drawn) else 1
    ordered = drawn.sort_values("megabytes")
    ends = [0, *ordered["megabytes"], right_edge]
    for number, (row, before, after) in enumerate(zip(ordered.itertuples(), ends, ends[2:], strict=False)):
        # Towards the side where there is more room, and neighbours above and below their points in turn.
        left = row.megabytes - before > after - row.megabytes
        place = {"xytext": (-5 if left else 5, -9 if number % 2 else 3), "ha": "right" if left else "left"}
        axes.annotate(row.run, (row.megabytes, row.emotion_f1), textcoords="offset points", **place)
    chance = summary["emotion_f1_chance"].mean()
    axes.axhline(chance, color="0.4", linestyle="--", linewidth=1)
    axes.annotate("chance", (0, chance), xytext=(2, 2), textcoords="offset points", color="0.3")
    axes.set(xlabel=f"peak while generating, MB ({_kind(drawn) or 'unknown'})", ylabel="macro-F1 of the emotion", ylim=(0, 1))
    axes.set_xlim(0, right_edge)
    _title(axes, "Emotion F1 against memory")
    return axes


def judged_control(texts, emotions):
    """Draw how the judge reads the texts that were asked for no emotion: shares by emotion, for each run. texts: tables.texts."""
    control = texts[texts["emotion"].isna()].assign(run=_runs)
    shares = control.groupby("run", sort=False)["judged_emotion"].value_counts(normalize=True).unstack(fill_value=0)
    shares = shares.reindex(columns=[*emotions, *shares.columns.difference(emotions)], fill_value=0)
    axes = _grid(shares, ".0%")
    axes.set_xlabel("judged emotion")
    _title(axes, "Texts that were asked for no emotion")
    return axes


def reliability(bins):
    """Draw the share of right answers over their mean probability, against the diagonal. bins: a card's calibration."""
    axes = _axes(7)
    axes.axline((0, 0), slope=1, color="0.4", linestyle="--", linewidth=1)
    confidence, accuracy = ([row[name] for row in bins] for name in ("confidence", "accuracy"))
    axes.plot(confidence, accuracy, marker="o", color="black")
    for row in bins:
        place = {"xytext": (4, -7), "textcoords": "offset points", "size": "small", "color": "0.3"}
        axes.annotate(row["texts"], (row["confidence"], row["accuracy"]), **place)
    axes.set(xlabel="probability of the answer\n(mean of a bin, with its texts)", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    _title(axes, "Is the judge as often right as it says?")
    return axes
