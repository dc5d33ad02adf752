"""Frames as people read them: titles, units, rounded figures."""

import pandas as pd

AT_A_GLANCE = (
    "model precision status device emotion_f1 emotion_f1_low emotion_f1_high emotion_f1_masked emotion_f1_chance "
    "rougeL_to_baseline weights_bytes peak_bytes latency_s note"
).split()
TITLES = {"emotion f1": "emotion F1", "emotion f1 chance": "chance", "rougeL to baseline": "ROUGE-L to baseline"}
TITLES |= {
    "emotion f1 low": "low",
    "emotion f1 high": "high",
    "emotion f1 masked": "masked",
    "f1": "F1",
    "f1 alone": "F1 alone",
    "f1 baseline": "F1 of baseline",
} | {f"rouge{n}": f"ROUGE-{n}" for n in "12L"}


def for_reading(frame, empty=""):
    """Turn a raw frame into text cells with units: bytes in MB (10^6), seconds to three figures, others to two decimals.

    empty: what stands where there is no figure.
    """
    shown = {}
    for name, column in frame.items():
        title = str(name).replace("_", " ")
        if str(name).endswith("bytes"):
            title = f"{title.removesuffix('bytes').strip() or 'stored'} (MB)"
            cells = [_cell(v, "{:,.1f}", empty) for v in pd.to_numeric(column) / 1e6]
        elif str(name).endswith("_s") and not str(name).endswith("_per_s"):
            title = f"{title.removesuffix(' s')} (s)"
            cells = [_cell(v, "{:#.3g}" if abs(v) < 99.95 else "{:,.0f}", empty) for v in pd.to_numeric(column)]
        elif pd.api.types.is_float_dtype(column):
            cells = [_cell(v, "{:.2f}", empty) for v in column]
        elif pd.api.types.is_integer_dtype(column):
            cells = [_cell(v, "{:,}", empty) for v in column]
        else:
            cells = [_cell(v, "{}", empty) for v in column]
        shown[TITLES.get(title, title)] = cells
    return pd.DataFrame(shown)


def _cell(value, form, empty):
    return empty if pd.isna(value) else form.format(value)
