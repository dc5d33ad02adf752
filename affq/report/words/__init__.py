"""Sentences written from figures, by what they speak of. No number is typed.

Markdown, in which data such as a model's name pass through `as_data`; alternative texts and the lines of `affq plan` are plain.
"""

from affq.report.words.choices import advice as advice
from affq.report.words.choices import choice as choice
from affq.report.words.choices import similar_peaks as similar_peaks
from affq.report.words.claims import verdicts as verdicts
from affq.report.words.comparisons import by_prompts as by_prompts
from affq.report.words.comparisons import detectable as detectable
from affq.report.words.comparisons import differences as differences
from affq.report.words.comparisons import headline as headline
from affq.report.words.comparisons import shortfalls as shortfalls
from affq.report.words.comparisons import variance as variance
from affq.report.words.costs import energy as energy
from affq.report.words.costs import kernels as kernels
from affq.report.words.costs import latency as latency
from affq.report.words.costs import memory as memory
from affq.report.words.costs import throughput as throughput
from affq.report.words.costs import time_spent as time_spent
from affq.report.words.engines import latency_ratios as latency_ratios
from affq.report.words.engines import same_texts as same_texts
from affq.report.words.judges import agreement as agreement
from affq.report.words.judges import band as band
from affq.report.words.judges import card as card
from affq.report.words.judges import people as people
from affq.report.words.load import series as series
from affq.report.words.load import texts_under_load as texts_under_load
from affq.report.words.load import under_load as under_load
from affq.report.words.planning import lacking as lacking
from affq.report.words.planning import left_out as left_out
from affq.report.words.planning import planned as planned
from affq.report.words.planning import planned_power as planned_power
from affq.report.words.planning import savings as savings
from affq.report.words.runs import hardware as hardware
from affq.report.words.runs import reproduce as reproduce
from affq.report.words.soak import drifts as drifts
from affq.report.words.soak import soaked as soaked
from affq.report.words.text import as_data as as_data
from affq.report.words.text import shown as shown
from affq.report.words.texts import batch as batch
from affq.report.words.texts import caveats as caveats
from affq.report.words.texts import collapse as collapse
from affq.report.words.texts import onsets as onsets
