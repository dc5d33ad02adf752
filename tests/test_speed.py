"""The pages of the benchmarks of speed: figures by hand, and what is published is what was measured."""

import json

import pytest
from bench import engines, peers, speed

WALLS = {"run": 80.0, "score": 12.0, "report": 8.0}
STAGES = {"start_s": 5.0, "load_s": 1.0, "quality_s": 40.0, "resource_s": 30.0}


def build(times):
    """Return what was measured of a build that takes so many times what another takes."""
    run = {name: times * seconds for name, seconds in STAGES.items()}
    return {"commit": f"c{times}", "walls_s": {v: times * s for v, s in WALLS.items()}, "stages_s": {"fp32": run, "bf16": run}}


def test_ratios_of_builds_and_shares_of_products_by_hand():
    builds = {"this": build(0.5), "before": build(1), "machine": "a machine"}
    limits = {"products_s": {"fp32": 15.0}, "flop_per_s": {"fp32": 7e10}, "copy_bytes_per_s": 9e9, "machine": "a machine"}
    lines = speed.page({"builds": builds, "limits": limits}).splitlines()
    assert "| all three | 100.0 | 50.0 | 0.50 |" in lines  # 80 + 12 + 8
    assert "| quality passes | 80.0 | 40.0 | 0.50 |" in lines  # of two precisions
    assert "| fp32 | 20.0 | 15.0 | 75% |" in lines
    assert any("70 GFLOP/s at fp32; it copies 9.0 GB/s" in line for line in lines)


def test_ratio_to_the_peers_is_of_all_their_commands_and_is_not_there_where_one_failed():
    rows = {f"{name}, {p}": {"wall_s": 100.0, "own": ""} for name in ("lm-eval", "optimum-benchmark") for p in ("fp32", "int8")}
    rows |= {"affq run": {"wall_s": 80.0, "own": ""}, "affq report": {"wall_s": 20.0, "own": ""}}
    hardware = {"device_name": "a machine", "cores": 2, "threads": 2}
    assert "affq took 100 s, lm-eval and optimum-benchmark 400 s together: ratio 0.25." in "\n".join(peers.page(hardware, rows))
    failed = rows | {"lm-eval, int8": {"wall_s": 3.0, "error": "no kernel"}}
    page = "\n".join(peers.page(hardware, failed))
    assert "failed after 3 | no kernel" in page and "ratio" not in page


@pytest.mark.parametrize("name", ["speed", "peers"])
def test_published_page_is_what_was_measured(name):
    path = speed.PAGE.with_name(f"{name}.json")
    measured = json.loads(path.read_text(encoding="utf-8"))
    page = speed.page(measured) if name == "speed" else "\n".join(peers.page(measured["hardware"], measured["rows"])) + "\n"
    assert path.with_suffix(".md").read_text(encoding="utf-8") == page


def test_engines_are_held_against_the_memorys_speed_and_their_own_timings_by_hand():
    slow, fast = {"latency_s": 3.0, "ttft_s": 0.5, "token_s": 0.04}, {"latency_s": 1.0, "ttft_s": 0.3, "token_s": 0.0102}
    texts = {"transformers bf16": [slow] * 3, "llama.cpp stored": [fast | {"own_token_s": 0.01}] * 3}
    load = {"seconds": 1.0, "other_processors": 0.0, "stolen_processors": 0.0, "throttled_s": 0.0, "hot": 0, "swapped_bytes": 0}
    load = {"before": load | {"gpus": []}, "during": load | {"gpus": []}}
    about = {"xllamacpp": "1", "threads": "2"}
    rest = {"machine": "a machine", "copy_bytes_per_s": 2e10, "tokens": 64, "load": load, "llama.cpp": about}
    lines = engines.page(
        {**rest, "texts": texts, "read_bytes": {"transformers bf16": 2e8, "llama.cpp stored": 102e6}}
    ).splitlines()
    assert "| transformers bf16 | 200 | 500 | 40.0 |  | 25% | 3.00 | 1.0 |" in lines  # 200 MB in 40 ms are 5 GB/s
    assert "| llama.cpp stored | 102 | 300 | 10.2 | +2.0% | 50% | 1.00 | 3.0 |" in lines
    assert any(line.endswith("Disturbed: by nothing.") for line in lines)
