"""What a chat template makes of a request, and what it says of texts: where a turn ends, how another opens, what is a thought."""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import transformers

from affq.errors import InputError

Tokenizer = transformers.PreTrainedTokenizerBase

# Some chat templates write the day into the prompt: always this one, so that the same study gives the same texts tomorrow.
TODAY = "{% macro strftime_now(format) %}01 Jan 2026{% endmacro %}"

# The variables by which chat templates turn thinking on and off.
SWITCHES = ("enable_thinking", "thinking")
# How a thought opens a text, and how it closes, in lower case.
THOUGHTS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think")},
    "[think]": "[/think]",
    "◁think▷": "◁/think▷",
    "<|start_thinking|>": "<|end_thinking|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<|channel>thought": "<channel|>",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}

# A conversation in words that no template has of its own: what a template writes around them is its own.
ASKED, ANSWERED, ASKED_AGAIN = "what affq asked", "what affq was answered", "what affq asked again"


def template_of(tokenizer: Tokenizer) -> str | None:
    """Return the chat template that is used; None where there is none: an empty one, by which nothing would be asked, is none.

    Raises InputError for several templates of which none is the default.
    """
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        names = ", ".join(sorted(templates))
        problem = f"the model has several chat templates, and none of them is the default: {names}"
        raise InputError(problem, value=names, remedy="save the one for conversations as chat_template.jinja in its folder")
    template = templates["default"] if isinstance(templates, dict) else templates
    return template if template and template.strip() else None


def render(tokenizer: Tokenizer, request: str, thinking: bool = False) -> str:
    """Return a request in the model's chat template, or as it is where there is none.

    thinking: whether the model is to think before it answers, where the template has one of SWITCHES. Raises InputError for a
    template that fails on a single message of the user, or leaves it out.
    """
    if template_of(tokenizer) is None:
        return request
    try:
        prompt, other = (_written(tokenizer, [_user(words)], True, thinking) for words in (request, ASKED))
    except Exception as error:  # a template is a program, and fails as programs do
        words = f"{type(error).__name__}: {error}"
        raise InputError(
            f"the model's chat template fails over a user's message ({words})", remedy="mend it, or remove it"
        ) from error
    if prompt == other:
        raise InputError("the model's chat template leaves out what the user says", remedy="mend it, or remove it")
    return prompt


def _user(words: str) -> dict[str, str]:
    return {"role": "user", "content": words}


def _written(tokenizer: Tokenizer, chat: list[dict[str, str]], answer: bool, thinking: bool = False) -> str:
    """Write a conversation by the chat template. answer: open the model's turn at its end."""
    options: dict[str, Any] = {"chat_template": TODAY + str(template_of(tokenizer)), "tokenize": False}
    options |= {"add_generation_prompt": answer} | dict.fromkeys(SWITCHES, thinking)
    return str(tokenizer.apply_chat_template(chat, **options))


def has_switch(tokenizer: Tokenizer) -> bool:
    """Return whether the chat template turns thinking on and off."""
    return template_of(tokenizer) is not None and render(tokenizer, ASKED_AGAIN, True) != render(tokenizer, ASKED_AGAIN, False)


def _after_answer(tokenizer: Tokenizer, last: bool) -> str:
    """Return what the template writes after the model's text: all where that is the last, else up to the user's next words.

    "" where there is no template, or it writes no such conversation.
    """
    chat = [_user(ASKED), {"role": "assistant", "content": ANSWERED}, *([] if last else [_user(ASKED_AGAIN)])]
    try:
        conversation = _written(tokenizer, chat, False) if template_of(tokenizer) else ""
    except Exception:  # a template for one question and one answer
        return ""
    _, answered, after = conversation.rpartition(ANSWERED)
    return after.partition(ASKED_AGAIN)[0] if answered else ""


def turn_end(tokenizer: Tokenizer) -> str | None:
    """Return the token by which the template ends the model's turn: the one of the added vocabulary that follows its text.

    What follows the last text counts first: some templates end a text within a turn by another token than the turn.
    """
    added = [token for token in tokenizer.get_added_vocab() if token.strip()]
    for last in (True, False):
        after = _after_answer(tokenizer, last).lstrip()
        if first := [token for token in added if after.startswith(token)]:
            return max(first, key=len)
    return None


def user_header(tokenizer: Tokenizer) -> str:
    """Return how the template opens a turn of the user, without white space; "" where it does so by a word or nothing."""
    after = _after_answer(tokenizer, last=False).strip().removeprefix(turn_end(tokenizer) or "").strip()
    # In some templates each turn of the user begins with the token that begins a text, which a model does not write there.
    shorter = after.removeprefix(str(tokenizer.bos_token or "")).strip()
    return next((_solid(header) for header in (shorter, after) if not header.isalpha()), "")


def opens_turn(text: str, header: str) -> bool:
    """Return whether a text, special tokens kept, goes on into a turn of the user, which the model makes up."""
    return header != "" and header in _solid(text)


def _solid(text: str) -> str:
    """Return a text without white space, which tokenizers add and drop around special tokens."""
    return "".join(text.split())


def thought_tokens(decode: Callable[[list[Any]], Any], token_ids: list[Any], prompt: str) -> int:
    """Return how many of a text's first tokens are thoughts: 0 where there are none, all where they do not end.

    token_ids: or the pieces that a text was streamed in. decode: makes a text of them, special tokens kept. prompt: rendered;
    some templates open a thought at its end. A thought that ends and does not begin was opened by the prompt in other words.
    """
    before, text = prompt.rstrip().lower(), str(decode(token_ids)).lstrip().lower()
    for opening, closing in THOUGHTS.items():
        opened = before.endswith(opening) or text.startswith(opening)
        if closing in text and (opened or opening not in text):
            return bisect_left(range(len(token_ids)), True, key=lambda n: closing in str(decode(token_ids[:n])).lower())
        if opened:
            return len(token_ids)
    return 0
