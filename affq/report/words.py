"""Sentences written from figures: the headline, what a chart shows, the caveats. Markdown; no number is typed.

What is data in Markdown, such as a model's name, passes through `as_data`; an alternative text is plain.
"""

import re

from affq.errors import printable
from affq.results import Status

SMALL = 0.5  # an effect of the batch is small beside the precision's up to this share of it


def planned(runs, machine):
    """Write the lines of affq plan: a table of the runs, what is at hand, and what int8 saves.

    runs: analysis.planned_runs. machine: memory.at_hand. A peak that was measured stands beside the predicted one.
    """
    names = [run["run_id"] or f"{run['model']}--{run['precision']}" for run in runs]
    width = max(map(len, names))
    lines = [f"{'status':8} {'run':{width}}  weights GB  peak GB  measured GB  fits        why"]
    for name, run in zip(names, runs, strict=True):
        fits = {True: "yes", False: "no", None: "?"}[run["fits"]] + (f": {n} GPUs" if (n := run["gpus"] or 1) > 1 else "")
        amounts = ["?" if run[key] is None else f"{run[key] / 1e9:,.2f}" for key in ("weights_bytes", "peak_bytes")]
        measured = "" if run["measured_peak_bytes"] is None else f"{run['measured_peak_bytes'] / 1e9:,.2f}"
        memory = f"{amounts[0]:>10}  {amounts[1]:>7}  {measured:>11}"
        lines.append(f"{run['status']:8} {name:{width}}  {memory}  {fits:10}  {run['reason']}".rstrip())
    lines.append(_at_hand(machine))
    if saved := savings(runs):
        lines += ["Predicted, where the paper says that int8 saves 76 % of GPU memory against 32 bits:", *saved]
    return lines


def _at_hand(machine):
    if machine is None:
        return "At hand: no GPU, which the study asks for"
    one = f"{machine.device_bytes / 1e9:,.1f} GB"
    return f"At hand: {one} of memory" if machine.kind == "cpu" else f"At hand: {machine.devices} GPUs of {one} each"


def savings(runs):
    """Say for each model what int8 saves of the predicted memory: the paper's claim C1, by arithmetic.

    runs: {model, precision, weights_bytes, peak_bytes}, the bytes None where unknown. Nothing for models without int8 beside
    fp32 or fp16.
    """
    lines, known = [], {(run["model"], run["precision"]): run for run in runs if run["peak_bytes"] is not None}
    for model in dict.fromkeys(model for model, precision in known if precision == "int8"):
        low, saved = known[model, "int8"], []
        for high in (known[model, precision] for precision in ("fp32", "fp16") if (model, precision) in known):
            weights, peak = (1 - low[key] / high[key] for key in ("weights_bytes", "peak_bytes"))
            saved.append(f"against {high['precision']} {weights:.1%} of the weights and {peak:.1%} of the peak")
        if saved:
            lines.append(f"{model}: int8 saves {'; '.join(saved)}")
    return lines


def shown(summary, column, unit="", scale=1, digits=2):
    """Say a column of the summary, run by run: the alternative text of its chart."""
    named = summary["model"].nunique() > 1
    figures = [
        f"{f'{row.model} ' if named else ''}{row.precision} {getattr(row, column) * scale:,.{digits}f}{unit}"
        for row in summary.dropna(subset=column).itertuples()
    ]
    title = column.removesuffix("_s").removesuffix("_bytes").replace("_", " ").replace("f1", "F1")
    return f"{title}: {', '.join(figures)}"


def reproduce(study, records):
    """Say what to type to make a report again, and with what the runs were made."""
    complete = [record for record in records if record.complete]
    software = [record.about()["software"] for record in complete]
    made = dict.fromkeys(f"affq {one['affq']}" + (f" at commit {one['commit']}" if one["commit"] else "") for one in software)
    name = study.source.replace("\\", "/").rpartition("/")[2]
    what = "file" if name.endswith((".yaml", ".yml")) else "packaged study"
    stale = any(record.state().status == Status.STALE for record in complete)
    same = (
        "Some runs are stale: other versions, or other generating code, made them than wrote this report."
        if stale
        else "The same study on the same machine and versions gives the same texts, byte for byte; times are not."
    )
    return (
        f"The runs were made with {' and '.join(made)}, the versions above, and the {what} `{name}`:\n\n"
        f"```sh\naffq run {name}\naffq report {name}\n```\n\n{same}"
    )


def time_spent(spent):
    """Say what the runs took together. spent: resources.time_spent."""
    return (
        f"Together {spent['total_s'].sum():.0f} s, of which {spent[['quality_s', 'resource_s']].sum(axis=None):.0f} s generated "
        f"text. Not counted: fetching and converting weights, earlier attempts at a run, the end of each process, the scoring "
        f"notebook's start, this page."
    )


def memory(summary):
    """Say what the peak of each device in the summary is a peak of."""
    kinds = {
        "rss": "On a CPU the peak is that of the process's resident memory above its base, which is what it held after its "
        "imports, subtracted already. *Activations, workspace* includes what the allocator keeps and temporaries of quantized "
        "products, so that a precision with smaller weights can have the higher peak, and differs from one execution to the "
        "next; *rest* is what stays beside the weights afterwards. Loading reads a whole file before it converts, whatever the "
        "precision.",
        "vram_allocated": "On a GPU the peak is that of memory allocated by torch; *rest* is what the device holds beyond it, by "
        "its own view: context, kernels, cached blocks. Allocated, reserved and in use, before and after, are in the table.",
    }
    said = [kinds[kind] for kind in summary["peak_kind"].dropna().unique()]
    if (summary["peak_bytes"].isna() & summary["weights_bytes"].notna()).any():
        said.append("Where a reading is unknown, the system does not tell it: the table's CSV file leaves it empty.")
    return " ".join(said)


def latency(statistics, aim):
    """Say how the texts were timed, and what the intervals are. statistics: resources.latency_statistics."""
    whole = statistics[statistics["reading"] == "latency_s"]
    reached = whole["stopped"].eq("aim").sum()
    said = ["The prompts were timed in one round."]
    if aim is not None:
        said = [
            f"Rounds over the timed prompts ended at the aim, an interval of the median no wider than {aim:.0%} of it, in "
            f"{reached} of {len(whole)} runs, and at the cap in the others."
        ]
    kinds = whole["interval"].dropna().unique()
    if "within-process" in kinds:
        said.append("Intervals are within-process: another process has another memory layout, and may differ by more.")
    if "between processes" in kinds:
        said.append("Intervals have the spread between fresh processes in them; the median is the mean of theirs.")
    if whole["interval"].isna().any():
        said.append("Where there is no interval, fewer than six texts were timed.")
    if not whole["steady"].all():
        said.append("Not every run was steady after its warm-up.")
    return " ".join(said)


def kernels(found):
    """Say which share of a profiled text's time goes to what, by run and phase. found: resources.kernels. Plain text."""
    shares = found.groupby(["model", "precision", "phase", "group"], sort=False)["share"].sum().reset_index()
    return "; ".join(
        f"{model} {precision}, {phase}: " + ", ".join(f"{row.group} {row.share:.0%}" for row in of.itertuples())
        for (model, precision, phase), of in shares.groupby(["model", "precision", "phase"], sort=False)
    )


def throughput(points):
    """Say the largest batch of each run, its tokens a second, and what set the limit. points: resources.throughput."""
    said = []
    for (model, precision), of in points.groupby(["model", "precision"], sort=False):
        last, first = of.iloc[-1], of.iloc[0]
        limit = {"cap": "the study's cap", "memory": "the largest that memory holds"}[last["stopped"]]
        said.append(
            f"{as_data(model)} {precision}: {last['tokens_per_s']:,.0f} tokens a second at {last['batch']} texts at once "
            f"({limit}), {last['tokens_per_s'] / first['tokens_per_s']:.1f} times as many as one by one"
        )
    return "; ".join(said) + "."


def caveats(study, summary, texts, effect):
    """List what a reader must know before believing the figures. effect: batching.batch_effect."""
    disturbed = "".join(
        f"- **The measurement of {as_data(row.model)} at {row.precision} was disturbed**, and its times are not to be relied on: "
        f"{as_data(row.note.partition('measurement disturbed: ')[2].partition(';')[0])}.\n"
        for row in summary.itertuples()
        if "measurement disturbed: " in row.note
    )
    if not study.judged:
        return disturbed + (
            "- The weights are random, in the models' shapes: memory and time are those of the architecture, and the texts mean "
            "nothing, so that none is judged.\n"
            "- Prompts are cut into tokens by a tokenizer that stands in for the models' own, and no chat template is added.\n"
            "- Random weights have no outlier columns, which LLM.int8 computes apart: with trained weights int8 can take longer, "
            "and how much longer cannot be learnt here."
        )
    lines = []
    for model, dtypes in summary.dropna(subset="stored_dtype").groupby("model", sort=False)["stored_dtype"]:
        if (dtype := dtypes.iloc[0]) != "float32":
            bits = f", {found[1]} bits a weight" if (found := re.match(r"q(\d)", dtype)) else ""
            lines.append(
                f"The weights of {as_data(model)} were published as {dtype}{bits}: a higher precision is loaded from these, and "
                f"is no better than they are."
            )
    asked = texts[texts["emotion"].notna()]
    run = asked["model"] + " " + asked["precision"]
    cut = _shares(~asked["ended"], run)
    degenerate = _shares(asked["judged_emotion"] == "none", run)
    lines += [
        _errs(study.judges[0]),
        f"Chance alone: with the targets shuffled, F1 is {summary['emotion_f1_chance'].mean():.2f}, the runs' average.",
        f"Texts cut at {study.generation.max_new_tokens} tokens are judged as they stand: {cut}.",
        f"Empty or degenerate texts count as wrong: {degenerate}.",
        f"Each F1 rests on {summary['texts'].max()} texts of {asked['prompt_id'].nunique()} prompts. Its 95 % interval says what "
        f"other prompts like these would give: {_by_run(summary, 'emotion_f1', ends=True)}. Differences between runs, which "
        f"share their prompts, are tested below.",
        f"A text that names its emotion is easily judged. Of the texts, so many have a word for the emotion that was asked for: "
        f"{_shares(asked['names_target'], run)}. With emotion words masked, F1 is {_by_run(summary, 'emotion_f1_masked')}.",
        *batch(effect),
    ]
    return disturbed + "\n".join(f"- {line}" for line in lines)


def collapse(written):
    """Say how often generation collapsed. written: text_quality.by_run."""
    said = []
    for row in written.itertuples():
        interval = f" ({row.collapsed_low:.0%} to {row.collapsed_high:.0%})" if row.collapsed_low == row.collapsed_low else ""
        said.append(f"{as_data(f'{row.model} {row.precision}')} {row.collapsed:.0%}{interval}")
    own = " Where *scored itself* is true, the fixed model wrote the texts." if written["scored_itself"].eq(True).any() else ""
    return f"Generation collapsed in so many texts (95 % interval for prompts like these): {', '.join(said)}.{own}"


def batch(effect):
    """Say how far batch and padding change the texts, and warn where that is not small beside the precision's effect.

    effect: batching.batch_effect. Not small: at least SMALL of it.
    """
    known = effect.dropna(subset="changed")
    if known.empty:
        return
    changed = ", ".join(f"{as_data(f'{row.model} {row.precision}')} {row.changed:.0%}" for row in known.itertuples())
    first = known.iloc[0]
    yield (
        f"Batch and padding change greedy texts: of the {first['timed']} timed prompts of {first['asked']}, so many read "
        f"otherwise in the study's batch of {first['batch']} than alone: {changed}."
    )
    for row in known.itertuples():
        run, said = as_data(f"{row.model} {row.precision}"), []
        if row.changed_by_precision >= 0 and row.changed > SMALL * row.changed_by_precision:
            said.append(f"the batch changes {row.changed:.0%} of these texts, the precision {row.changed_by_precision:.0%}")
        by_batch, by_precision = abs(row.f1_alone - row.f1), abs(row.f1 - row.f1_baseline)
        if by_batch > SMALL * by_precision:
            said.append(
                f"F1 is {row.f1_alone:.2f} alone and {row.f1:.2f} in the batch, where the baseline's is {row.f1_baseline:.2f}"
            )
        if said:
            yield f"**{run}: the batch weighs beside the precision**: {'; '.join(said)}."


def _errs(judge):
    if not judge.card:
        return (
            f"The judge {as_data(judge.name)} has no card: how often it errs is not known. F1 says how well it and request agree."
        )
    test = judge.card["test"]
    return (
        f"The judge {as_data(judge.name)} errs: its macro-F1 is {test['macro_f1']:.2f} on {as_data(test['file'])} "
        f"({test['texts']} texts that people wrote of an emotion), and it was not trained on generated text. F1 here says how "
        f"well judge and request agree."
    )


def _by_run(summary, column, ends=False):
    said = []
    for row in summary.dropna(subset=f"{column}_low" if ends else column).to_dict("records"):
        figures = f"{row[f'{column}_low']:.2f} to {row[f'{column}_high']:.2f}" if ends else f"{row[column]:.2f}"
        run = f"{row['model']} {row['precision']}"
        said.append(f"{as_data(run)} {figures}")
    return ", ".join(said) or "unknown"


def _shares(is_so, run):
    return ", ".join(f"{as_data(name)} {share:.0%}" for name, share in is_so.groupby(run, sort=False).mean().items())


def as_data(text):
    """Escape text for Markdown: every mark as a character reference, which reads as itself and is never markup or a link."""
    return re.sub(r"[^\w -]|_", lambda mark: f"&#{ord(mark[0])};", printable(text))
