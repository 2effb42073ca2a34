"""`alignkit sample MODEL`."""

from pathlib import Path

import click

from alignkit.errors import UserError
from alignkit.terminal import say, say_json


@click.command("sample")
@click.argument("model")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--prompt", "prompts", multiple=True, help="Text to continue or answer. May be given several times.")
@click.option("--prompts", "file", type=click.Path(path_type=Path), help="JSONL file with a prompt per line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def command(model: str, settings: tuple[str, ...], prompts: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Sample from a model folder or hub name.

    KEY=VALUE: temperature, top_k, top_p, max_length, max_words, seed. A model with a chat template gets each --prompt
    as a user's message.
    """
    from alignkit.console import set_up_logging

    set_up_logging()
    options = _settings(settings)
    seed = options.pop("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"seed={seed} is no whole number", where="command line")
    if bool(prompts) == bool(file):
        raise UserError("give either --prompt TEXT or --prompts FILE", where="command line")
    from alignkit_plugins.command_sample.sampling import sample_model

    for prompt, completion, chat in sample_model(model, list(prompts), file, options, seed):
        if as_json:
            say_json({"prompt": prompt, "completion": completion}, indent=None)
        else:
            # A conversation's answer stands on a line of its own, a continued text goes on.
            say(prompt, dim=True, nl=chat)
            say(f"assistant: {completion}" if chat else completion)


def _settings(settings: tuple[str, ...]) -> dict[str, object]:
    from alignkit.recipe.source import parse_value

    out: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r} is not KEY=VALUE", where="command line", hint="for example temperature=0.7")
        out[key] = parse_value(value)
    return out
