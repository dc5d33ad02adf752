"""Texts under load: the generator against a server whose every token comes when it is planned to, in time that jumps."""

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
from simulated import FIRST_S, QUANTILES, REQUESTS, TOKEN_S, TOKENS, Known, client, planned, seconds, simulate

from affq.inference import ServerError, load

WHOLE_S = FIRST_S + (TOKENS - 1) * TOKEN_S  # 0.14 s
PAUSE = (3.0, 5.0)


def measured(known, level, texts, repetition=0, slow=lambda serving: serving):
    """Return the rows and the reading of a level, asked of a server in simulated time; slow: changes the client."""

    async def one():
        async with known.serving() as address:
            serving = client(address)
            try:
                return await load.asked(slow(serving), REQUESTS, level, texts, seed=0, repetition=repetition)
            finally:
                serving.close()

    return simulate(one())


def latest(rows):
    """Return by how much the latest request was sent late, in seconds."""
    return max(row["sent_s"] - row["due_s"] for row in rows)


def test_every_percentile_of_an_open_loop_is_the_servers_own_and_its_pause_is_not_hidden():
    known, level = Known(PAUSE), load.Level(0, rate=10.0)
    rows, reading = measured(known, level, 100)
    due_s = np.array(load.due(10.0, 100, seed=0, repetition=0))
    assert [row["due_s"] for row in rows] == due_s.tolist() and not any(row["error"] for row in rows)
    ours, truth = seconds(rows), planned(due_s, known)
    for name, values in truth.items():
        assert np.quantile(ours[name], QUANTILES) == pytest.approx(np.quantile(values, QUANTILES), rel=0.02), name
    # By hand: 10 texts a second for two seconds are a fifth of 100. They wait for as much of the pause as is left, one second
    # on average: half of them longer, so that more than a tenth of all first tokens come after more than a second.
    assert np.quantile(ours["first"], 0.5) == pytest.approx(FIRST_S) and np.quantile(ours["first"], 0.9) > 1
    assert latest(rows) < 0.001 and reading["lag_s"] < 0.001


def test_closed_loop_never_exceeds_its_streams_and_hides_the_pause_from_all_but_them():
    known, streams = Known(PAUSE), 4
    rows, reading = measured(known, load.Level(0, streams=streams), 100)
    assert known.most == streams and known.asked == len(rows) == 100
    assert [row["number"] for row in rows] == [*range(100)] and [row["prompt_id"] for row in rows[:4]] == ["a", "b", "c", "a"]
    ours = seconds(rows)
    # By hand: each stream makes 25 texts, one of them two seconds longer: 4 of 100.
    assert np.sum(ours["whole"] > WHOLE_S + 1) == streams
    assert np.quantile(ours["whole"], (0.5, 0.9)) == pytest.approx([WHOLE_S] * 2, rel=0.02)
    assert np.quantile(ours["first"], (0.5, 0.9)) == pytest.approx([FIRST_S] * 2, rel=0.02)
    assert np.quantile(ours["between"], QUANTILES) == pytest.approx([TOKEN_S] * 3, rel=0.02)
    assert reading["seconds"] == pytest.approx(25 * WHOLE_S + 2, rel=0.01)
    assert (reading["loop"], reading["streams"], reading["rate"]) == ("closed", streams, None)


def test_rows_tell_what_came_when_and_what_failed_and_the_level_goes_on():
    rows, _ = measured(Known(refuse=5), load.Level(3, streams=2), 20, repetition=1)
    failed = [row for row in rows if row["error"]]
    assert len(failed) == 4 and {row["error"] for row in failed} == {"the server answers 503: Busy"}
    assert all((row["first_s"], row["moments_s"], row["text"], row["new_tokens"]) == (None, [], "", 0) for row in failed)
    whole = next(row for row in rows if not row["error"])
    assert (whole["level"], whole["repetition"], whole["new_tokens"], whole["ended"]) == (3, 1, TOKENS, False)
    assert whole["text"].split() == [str(number) for number in range(TOKENS)] and len(whole["moments_s"]) == TOKENS
    assert whole["first_s"] == whole["moments_s"][0] and whole["due_s"] == whole["sent_s"]


def test_arrivals_are_a_poisson_process_and_the_same_seed_gives_the_same():
    gaps = np.diff(load.due(4.0, 100_000, seed=7, repetition=2))
    assert gaps.mean() == pytest.approx(1 / 4, rel=0.02) and gaps.var() == pytest.approx(1 / 16, rel=0.03)
    # In a second 4 texts on average, and as much variance: Poisson's.
    counts = np.bincount(np.array(load.due(4.0, 100_000, seed=7, repetition=2)).astype(int))[:-1]
    assert counts.mean() == pytest.approx(4, rel=0.02) and counts.var() == pytest.approx(4, rel=0.05)
    assert load.due(4.0, 9, seed=7, repetition=2) == load.due(4.0, 9, seed=7, repetition=2)
    others = [(4.0, 8, 2), (4.0, 7, 3), (4.5, 7, 2)]
    assert len({load.due(rate, 9, seed, repetition)[0] * rate for rate, seed, repetition in [(4.0, 7, 2), *others]}) == 4


def test_levels_come_in_the_order_of_the_study_the_closed_loop_first():
    levels = load.levels([1, 4], [0.5])
    assert [(level.number, level.loop, level.streams, level.rate) for level in levels] == [
        (0, "closed", 1, None),
        (1, "closed", 4, None),
        (2, "open", None, 0.5),
    ]


class Slow:
    """A client that takes a while for each piece, in which its event loop does nothing else."""

    def __init__(self, serving, each):
        self.serving, self.each, self.need = serving, each, serving.need

    @asynccontextmanager
    async def asking(self):
        async with self.serving.asking() as ask:

            async def slowly(request, at_token):
                return await ask(request, lambda: (at_token(), self.each()))

            yield slowly


def test_client_that_is_the_bottleneck_is_seen():
    def each():
        asyncio.get_running_loop().now_s += 0.02  # as long as two tokens of the server's

    rows, reading = measured(Known(), load.Level(0, rate=4.0), 40, slow=lambda serving: Slow(serving, each))
    assert reading["lag_s"] > 0.02 and latest(rows) > 0.02
    assert sum(row["sent_s"] - row["due_s"] > 0.01 for row in rows) > 10
    quick_rows, quick = measured(Known(), load.Level(0, rate=4.0), 40)
    assert quick["lag_s"] < 0.001 and max(row["sent_s"] - row["due_s"] for row in quick_rows) < 0.001


def test_client_counts_what_its_process_took_of_a_processor():
    def busy():
        began_s = time.process_time()
        while time.process_time() < began_s + 0.01:
            pass

    _, reading = measured(Known(), load.Level(0, streams=1), 2, slow=lambda serving: Slow(serving, busy))
    assert reading["client_busy"] * reading["seconds"] >= 2 * TOKENS * 0.01


def test_server_that_is_gone_ends_the_level_with_its_own_error():
    class Gone:
        def need(self):
            raise ServerError("the server is gone")

        @asynccontextmanager
        async def asking(self):
            async def ask(request, at_token):
                await asyncio.sleep(0.1)
                raise load.Unanswered("the server does not answer")

            yield ask

    with pytest.raises(ServerError, match="the server is gone"):
        simulate(load.asked(Gone(), REQUESTS, load.Level(0, streams=4), 100, seed=0))
