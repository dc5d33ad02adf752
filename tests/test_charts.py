"""Charts are the same for everybody, whatever a matplotlibrc says."""

import importlib

import matplotlib
import pandas as pd
import pytest

from affq.report import charts


@pytest.fixture
def styled():
    """Set what authors of papers set, and take it back."""
    former = dict(matplotlib.rcParams)
    matplotlib.rcParams |= {"text.usetex": True, "font.family": ["serif"], "font.sans-serif": ["Arial"], "savefig.dpi": 30}
    yield
    matplotlib.rcParams |= former


def test_charts_set_their_whole_style(styled):
    mine = dict(matplotlib.rcParams)
    importlib.reload(charts)
    style = matplotlib.rcParams
    assert (style["text.usetex"], style["font.family"], style["savefig.dpi"]) == (False, ["sans-serif"], "figure")
    assert style["font.sans-serif"][0] == "DejaVu Sans" != mine["font.sans-serif"][0]  # which comes with matplotlib


def test_same_readings_give_the_same_points():
    texts = pd.DataFrame({"precision": ["fp32", "fp32", "int8"], "latency_s": [1.0, 1.0, 2.0], "new_tokens": 8})
    texts = texts.assign(model="m", engine="transformers")
    medians = texts.iloc[1:].assign(latency_low_s=0.5, latency_high_s=2.5)
    places = [[points.get_offsets().tolist() for points in charts.latency(texts, medians).collections] for _ in range(2)]
    assert places[0] == places[1]
    assert places[0][0][0] != places[0][0][1]  # texts that took as long are both seen
