"""Charts are the same for everybody, whatever a matplotlibrc says."""

import importlib

import matplotlib
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
