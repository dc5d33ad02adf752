"""Write docs/gpu.md: what was seen on a card, from docs/gpu.json alone; or, while there is none, what will stand there.

python scripts/gpu_record.py            writes the page
python scripts/gpu_record.py FOLDER …   takes what `make gpu` left there, in one call or several, judges the texts here, keeps
                                        gpu.json, and writes the page
"""

import json
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from affq.study import Study

ROOT = Path(__file__).parents[1]
PAGE, KEPT, HOME = ROOT / "docs" / "gpu.md", ROOT / "docs" / "gpu.json", ROOT / ".gpu" / "home"
CPU = ROOT / "reports" / "default" / "tables" / "summary.csv"
STAGES = ("tests", "default", "paper", "too_large", "compiled", "throughput")
TIMED = ("default", "paper", "compiled")  # the stages whose rows time texts
TARGETS = {"weights": 0.03, "peak": 0.10}  # how far a prediction may be off
Row = dict[str, Any]
HEAD = """# On a GPU

<!-- Made by scripts/gpu_record.py from docs/gpu.json, which `make gpu` writes on a card: change neither by hand. -->
"""
NOT_SEEN = """
**Not seen yet.** No part of affq has run on CUDA. `make gpu`, on a machine with a card, takes eight minutes and shows, in this
order:

1. the tests that need a GPU;
2. the default model at fp32, bf16, fp16, int8 and nf4: emotion F1, memory and latency, beside a CPU's;
3. the paper's fifteen configurations with random weights, those that fit: weights and peak, predicted and measured, and times;
   the verdicts on C1 (memory) and C4 (time); the share of the card's copy bandwidth that decoding one text reaches, and of its
   bfloat16 peak that reading a prompt reaches;
4. one configuration that cannot fit: its row with the remedy, and the next run unharmed;
5. decoding that torch compiles, 7B at fp16, beside the plain one;
6. throughput over batch size to the end of memory, 7B at fp16 and int8;

and of every run that times texts the energy of one, where zeus is installed.

It leaves `gpu.json` and `records.tar.gz`; `python scripts/gpu_record.py FOLDER` makes this page of them.
[CONTRIBUTING](../CONTRIBUTING.md#a-card) says how.
"""
OF_CLAIMS = (
    "As affq's own code judges them. Time (C4) is tested on the default model alone: random weights have no outlier columns, "
    "which take LLM.int8 its time."
)
OF_COMPILED = "The same model and precision as above, by the engine transformers-compiled."
OF_DEFAULT = "Its texts were judged by the default study's first judge; a CPU's figures are those of reports/default."
OF_ENERGY = (
    "Of the timed texts of the tables above, one at a time: what the card took beyond what it takes at rest with the model "
    "loaded, by its own counter, which zeus reads."
)
REHEARSAL = "**A rehearsal** on a processor, with small twins of the models: no card was seen.\n"


def page(content: Row | None) -> str:
    """Return the page. content: gpu.json, as it came home; None while there is none."""
    if content is None:
        return HEAD + NOT_SEEN
    stages, machine = content["stages"], content["machine"]
    rows = {name: stages.get(name, {}).get("rows", []) for name in STAGES}
    parts = [
        HEAD,
        REHEARSAL if content["rehearsal"] else "",
        about(content, machine),
        section(
            "The paper's configurations", sizes(content["random"]), paper_table(rows["paper"], machine), within(rows["paper"])
        ),
        section("What the paper claims", OF_CLAIMS, claims_table(content["claims"])),
        section("The default model", OF_DEFAULT, default_table(rows["default"], content.get("judged", []))),
        section("Too large", "", table("model precision status said".split(), map(too_large_cells, rows["too_large"]))),
        section("Decoding that is compiled", OF_COMPILED, paper_table(rows["compiled"], machine)),
        section("Throughput", "", throughput_table(rows["throughput"])),
        section("Energy", OF_ENERGY, energy_table([row for name in TIMED for row in rows[name]])),
        section("Tests that need a GPU", "", table("test outcome s said".split(), map(test_cells, rows["tests"]))),
        section("What is not here", "", left_out(content)),
    ]
    return "\n".join(filter(None, parts)).rstrip() + "\n"


def section(title: str, *paragraphs: str) -> str:
    return f"## {title}\n\n" + "\n\n".join(filter(None, paragraphs)) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, or words where it would be empty."""
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *lines]) if lines else "Nothing was seen."


def about(content: Row, machine: Row) -> str:
    """Return what the card and the software were, and when."""
    hardware, software = machine["hardware"], machine["software"]
    versions = ", ".join(f"{name} {version}" for name, version in software["versions"].items())
    facts = {
        "device": f"{hardware['device_name']}, {gb(hardware['memory_bytes'])} GB",
        "driver": f"{hardware['driver'] or 'none'}, CUDA {hardware['cuda'] or 'none'}",
        "versions": f"Python {software['python']}, {versions}",
        "affq": f"{software['affq']}, {software['commit'] or 'commit unknown'}",
        "date": f"{content['date']}; {content['seconds'] / 60:.1f} of {content['minutes']:g} minutes taken",
        "copy bandwidth": f"{machine['copy_bytes_per_s'] / 1e9:,.1f} GB/s, bytes read and written",
        "bfloat16 products": f"{machine['bf16_flop_per_s'] / 1e12:,.3g} TFLOP/s at best",
    }
    return table(["what", "was"], facts.items()) + "\n"


def sizes(random: Row) -> str:
    """Return how much of a study the minutes allowed."""
    timed, tokens = random["measurement"], random["generation"]["max_new_tokens"]
    return (
        f"Random weights in the models' shapes, the largest that fits first. Texts timed of each: {timed['texts']}, of "
        f"{timed['new_tokens']} tokens; before them two prompts with each emotion were written in one batch, {tokens} tokens "
        "each. GB are 10⁹ bytes. Decoding: bytes of weights times tokens a second, over the copy bandwidth. Prefill: 2 × "
        "parameters × prompt tokens over the time to the first token, over the best bfloat16 products. Neither is given for a "
        "mixture, of which a token takes only a part."
    )


def paper_table(rows: Sequence[Row], machine: Row) -> str:
    """Return the table of the configurations: measured, predicted, and how far off; or why not."""
    columns = ["model", "precision", "weights GB", "predicted", "off", "peak GB", "predicted", "off"]
    columns += ["loaded in s", "first token ms", "further token ms", "decoding", "prefill", "said"]
    return table(columns, [paper_cells(row, machine) for row in rows])


def paper_cells(row: Row, machine: Row) -> list[str]:
    cells = [row["model"], row["precision"]]
    for name in TARGETS:
        measured, predicted = row[f"{name}_bytes"], row[f"predicted_{name}_bytes"]
        cells += [gb(measured), gb(predicted), percent(off(predicted, measured), sign="+")]
    cells += [shown(row["load_s"], ".1f"), milliseconds(row["ttft_s"]), milliseconds(row["token_s"])]
    cells += [percent(bandwidth_share(row, machine)), percent(peak_share(row, machine))]
    return [*cells, "; ".join(filter(None, (row["status"], row["note"], row["disturbed"])))]


def off(predicted: float | None, measured: float | None) -> float | None:
    """Return by which share of what was measured a prediction is too large; None where one is unknown."""
    return None if predicted is None or not measured else predicted / measured - 1


def bandwidth_share(row: Row, machine: Row) -> float | None:
    """Return the share of the copy bandwidth that decoding one text reaches: each token reads all weights once."""
    if row["mixture"] or not row["token_s"]:
        return None
    return row["weights_bytes"] / row["token_s"] / machine["copy_bytes_per_s"]


def peak_share(row: Row, machine: Row) -> float | None:
    """Return the share of the bfloat16 peak that prefill reaches: each weight takes part in one multiply-add a prompt token."""
    if row["mixture"] or not row["ttft_s"]:
        return None
    return 2 * row["parameters"] * row["prompt_tokens"] / row["ttft_s"] / machine["bf16_flop_per_s"]


def within(rows: Sequence[Row]) -> str:
    """Return how many predictions were as near as they are meant to be."""
    sentences = []
    for name, target in TARGETS.items():
        errors = [off(row[f"predicted_{name}_bytes"], row[f"{name}_bytes"]) for row in rows]
        known = [abs(error) for error in errors if error is not None]
        if known:
            near = sum(error <= target for error in known)
            sentences.append(
                f"{name.capitalize()}: {near} of {len(known)} within {target:.0%}, the worst off by {max(known):.1%}."
            )
    return " ".join(sentences)


def claims_table(claims: Sequence[Row]) -> str:
    """Return the verdicts that affq's own code gave on each claim of memory and of time."""
    columns = ["claim", "model", "claimed", "estimate", "interval", "verdict", "why not"]
    return table(columns, map(claim_cells, claims))


def claim_cells(row: Row) -> list[str]:
    claimed = f"{shown(row['claimed_low'], '.2f')} to {shown(row['claimed_high'], '.2f')}"
    interval = f"{shown(row['low'], '.3f')} to {shown(row['high'], '.3f')}" if row["low"] is not None else ""
    why = " ".join(filter(None, (row["reason"] and row["reason"].replace("_", " "), row["detail"])))
    return [row["claim"], row["model"] or "", claimed, shown(row["estimate"], ".3f"), interval, row["verdict"], why]


def default_table(rows: Sequence[Row], judged: Sequence[Row]) -> str:
    """Return the default model's table. judged: F1 as judged at home, and the CPU's figures."""
    columns = ["precision", "emotion F1", "on a CPU", "weights GB", "peak GB", "predicted", "text s", "on a CPU", "said"]
    at_home = {row["precision"]: row for row in judged}
    return table(columns, [default_cells(row, at_home.get(row["precision"], {})) for row in rows])


def default_cells(row: Row, home: Row) -> list[str]:
    cells = [row["precision"], shown(home.get("emotion_f1"), ".3f"), shown(home.get("cpu_emotion_f1"), ".3f")]
    cells += [gb(row["weights_bytes"]), gb(row["peak_bytes"]), gb(row["predicted_peak_bytes"])]
    cells += [shown(row["latency_s"], ".2f"), shown(home.get("cpu_latency_s"), ".2f")]
    return [*cells, "; ".join(filter(None, (row["status"], row["note"], row["disturbed"])))]


def too_large_cells(row: Row) -> list[str]:
    return [row["model"], row["precision"], row["status"], row["note"]]


def throughput_table(rows: Sequence[Row]) -> str:
    """Return tokens a second by batch size; a run that failed says so."""
    columns = ["model", "precision", "batch", "tokens/s", "texts/s", "peak GB", "ended by"]
    return table(columns, map(throughput_cells, rows))


def throughput_cells(row: Row) -> list[str]:
    if "batch" not in row:
        return [row["model"], row["precision"], "", "", "", "", f"{row['status']}: {row['note']}"]
    figures = [shown(row["tokens_per_s"], ",.1f"), shown(row["texts_per_s"], ",.2f"), gb(row["peak_bytes"])]
    return [row["model"], row["precision"], str(row["batch"]), *figures, row["stopped"]]


def energy_table(rows: Sequence[Row]) -> str:
    """Return joules a text and a token of the runs that have ended, or why they are unknown."""
    columns = ["model", "precision", "J a text", "J a token", "W at rest", "counters", "said"]
    return table(columns, [energy_cells(row) for row in rows if row["energy"]])


def energy_cells(row: Row) -> list[str]:
    energy = row["energy"]
    cells = [shown(energy[name], ".3g") for name in ("joules_a_text", "joules_a_token", "rest_watts")]
    said = f"unknown: {energy['unknown'].replace('_', ' ')}" if energy["unknown"] else ""
    return [row["model"], row["precision"], *cells, energy["metered"] or "", said]


def test_cells(row: Row) -> list[str]:
    return [row["test"].rpartition("/")[2], row["outcome"], shown(row["seconds"], ".1f"), " ".join(row["note"].split())]


def left_out(content: Row) -> str:
    """Return by name what did not begin, and why stages are not as they should be."""
    lines = [f"- {entry['stage']}: {entry['name']} did not begin, {entry['why']}" for entry in content["not_begun"]]
    lines += [f"- {name}: {stage['note']}" for name, stage in content["stages"].items() if stage.get("note")]
    return "\n".join(lines) or "Everything that was to be seen was begun."


def shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def gb(size_bytes: float | None) -> str:
    return "" if size_bytes is None else f"{size_bytes / 1e9:,.3g}" if size_bytes < 1e11 else f"{size_bytes / 1e9:,.0f}"


def percent(share: float | None, sign: str = "") -> str:
    return "" if share is None else format(share, f"{sign}.1%")


def milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.1f}"


def joined(calls: Sequence[Row]) -> Row:
    """Return what several calls on one card showed as one: a stage is as the last call that began it showed it."""
    whole = calls[0]
    for call in calls[1:]:
        begun = {name: stage for name, stage in call["stages"].items() if stage["rows"]}
        whole = whole | {name: whole[name] + call[name] for name in ("minutes", "seconds")}
        whole["stages"] = whole["stages"] | begun
        whole["not_begun"] = [entry for entry in whole["not_begun"] if entry["stage"] not in begun] + call["not_begun"]
    return whole


def bring_home(folders: Sequence[Path], home: Path = HOME) -> Row:
    """Unpack what came home into a fresh folder, and return gpu.json with what only the records together give.

    That is the default model's F1, which is judged here, beside what the default study's report has of a CPU; and the claims'
    verdicts, of all calls together, and of one that was cut off before its own.
    """
    from affq import load_study

    calls = [json.loads((folder / "gpu.json").read_text(encoding="utf-8")) for folder in folders]
    if len({call["machine"]["hardware"]["device_name"] for call in calls}) > 1:
        sys.exit("these calls were on different cards: name those of one")
    home.mkdir(parents=True)
    for folder in folders:
        with tarfile.open(folder / "records.tar.gz") as archive:
            archive.extractall(home, filter="data")
    content = joined(calls)
    there = [
        load_study(path, home / "results") for path in (home / "gpu-default.yaml", home / "gpu-paper.yaml") if path.is_file()
    ]
    content["claims"] = [verdict for study in there for verdict in verdicts(study, home / "results")]
    return content | {"judged": [row for study in there if study.judged for row in judge(study, home / "results")]}


def verdicts(study: "Study", results: Path) -> list[Row]:
    """Return affq's own verdicts on the claims of memory (C1) and of time (C4) by a study's figures; none without any."""
    from affq import Results

    every = Results(study, results)
    if not any(record.complete for record in every.records):
        return []
    return plain(every.claims[every.claims["claim"].str.startswith(("C1", "C4"))])


def judge(study: "Study", results: Path) -> list[Row]:
    """Return for each precision of the default model its F1, judged now, and the figures of a CPU."""
    import pandas as pd

    from affq import Results
    from affq.runner import score_study

    score_study(study, results)
    cpu = pd.read_csv(CPU).set_index("precision").add_prefix("cpu_")[["cpu_emotion_f1", "cpu_latency_s"]]
    here = Results(study, results).summary.set_index("precision")[["emotion_f1"]]
    return plain(here.join(cpu).reset_index())


def plain(frame: "DataFrame") -> list[Row]:
    """Return a frame's rows as JSON has them: what is unknown is None."""
    return json.loads(frame.to_json(orient="records", double_precision=15))


def main() -> None:
    """Take what came home, if folders are named; write the page."""
    if folders := [Path(word) for word in sys.argv[1:]]:
        if HOME.exists():
            sys.exit(f"{HOME} is there already: move it away, or delete it")
        KEPT.write_text(json.dumps(bring_home(folders), indent=1) + "\n", encoding="utf-8")
        print(f"Records in {HOME}: there affq report gpu-paper.yaml --results results publishes the report of a study.")
    PAGE.write_text(page(json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else None), encoding="utf-8")


if __name__ == "__main__":
    main()
