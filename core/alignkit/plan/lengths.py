"""How long prompts and rows are taken to be: never longer than the model has positions for, and always said."""

from alignkit.errors import UserError

# Tokens, where neither the recipe nor the command says how long prompts or rows are.
PROMPT, ROW = 256, 512


def prompt_tokens(
    given: int | None, allowed: int | None, answer: int, positions: int | None, step: str
) -> tuple[int, tuple[str, ...]]:
    """Tokens of a prompt, and what is assumed. Raises UserError where prompt and answer do not fit the model.

    `given` by the command, `allowed` by the recipe.
    """
    wanted = given or allowed or PROMPT
    room = wanted if positions is None else positions - answer
    if room < 1:
        what = f"answers of {answer} tokens leave no room for a prompt in the model's {positions} positions"
        raise UserError(what, where=f"step {step}, sampling.max_length", hint="lower it, or take another model")
    if given is not None and given > room:
        what = f"prompts of {given} tokens and answers of {answer} do not fit the model's {positions} positions"
        raise UserError(what, where=f"--prompt-tokens, step {step}", hint=f"at most {room}")
    length = min(wanted, room)
    why: tuple[str, ...] = ()
    if length < wanted:
        why = (f"prompts fill what the answers leave of the model's {positions} positions",)
    elif not (given or allowed):
        why = ("the recipe does not say how long prompts are",)
    return length, (f"prompts of {length} tokens, answers of {answer}", *why)


def row_tokens(given: int | None, allowed: int | None, positions: int | None, step: str) -> tuple[int, tuple[str, ...]]:
    """Tokens of a training row, and what is assumed. Raises UserError for more than the model has positions."""
    if given is not None and positions is not None and given > positions:
        what = f"rows of {given} tokens do not fit the model's {positions} positions"
        raise UserError(what, where=f"--row-tokens, step {step}", hint=f"at most {positions}")
    wanted = given or allowed or ROW
    length = min(wanted, positions or wanted)
    why: tuple[str, ...] = ()
    if length < wanted:
        why = (f"rows fill the model's {positions} positions",)
    elif not (given or allowed):
        why = ("the recipe does not say how long rows are",)
    return length, (f"rows of {length} tokens", *why)
