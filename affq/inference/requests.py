"""What a model is asked for and what it writes: requests, generations, and the key that tells one text of a run from another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

AtToken = Callable[[], Any]  # is called after each step, which gives every text of a batch a token


class Key(TypedDict):
    """What tells one text of a run from another. emotion: None for the control, which is asked for no emotion."""

    prompt_id: str
    emotion: str | None
    sample: int


KEY = [*Key.__annotations__]


class Request(Key):
    """One text that a model is asked for. kind: of the prompt, general or event. request: what the model is given."""

    kind: str
    request: str


class Ending(TypedDict):
    """A text up to its end, without the thoughts that it begins with.

    new_tokens: with those of its thoughts, which thought_tokens counts. ended: whether there was an end within the tokens that
    were generated. opens_turn: whether it goes on into a turn of the user.
    """

    text: str
    new_tokens: int
    thought_tokens: int
    ended: bool
    opens_turn: bool


class Generation(Key, Ending):
    """One text of a run. prompt: the request as the model's chat template writes it."""

    kind: str
    prompt: str


class AloneText(Key):
    """A timed text by itself, in a batch of one; None where it has no counterpart in the quality pass."""

    text: str | None


class Made(NamedTuple):
    """What was generated for one prompt that is timed.

    token_ids: the new ones; () where an engine does not tell them. new_tokens: how many there are: as many as were asked for,
    unless the engine ends a text when it likes.
    """

    token_ids: Sequence[int]
    new_tokens: int


class Sampling(TypedDict):
    """How tokens are drawn where decoding is not greedy."""

    temperature: float
    seed: int


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the key alone of a request, a generation, a reading or a score."""
    return {"prompt_id": row["prompt_id"], "emotion": row["emotion"], "sample": row["sample"]}
