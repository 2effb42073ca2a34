"""The subcommand `feedback`. What it needs is imported when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from alignkit.errors import UserError
from alignkit.terminal import say, say_json

if TYPE_CHECKING:
    from alignkit_plugins.command_feedback.importing.gather import Gathered
    from alignkit_plugins.command_feedback.importing.write import Written

IMPORTS = (
    "trl", "hh", "kto", "votes", "ratings", "summarize", "ultrafeedback", "argilla", "label-studio", "jsonl",
)  # fmt: skip
EXPORTS = ("trl", "trl-conversational", "kto", "hh", "argilla", "label-studio", "jsonl", "parquet")
SHOWN_REFUSALS = 10

_path = click.Path(path_type=Path)
_new_file = click.Path(path_type=Path, dir_okay=False)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_force = click.option("--force", is_flag=True, help="Write over what is there.")


@click.group("feedback")
def command() -> None:
    """Bring judgements in and out, measure and compare them, calibrate a judge.

    PLACE is a run folder, a collect step's folder, a folder with tasks.jsonl and judgements.jsonl, or a store file.
    """
    from alignkit.console import set_up_logging

    set_up_logging()


@command.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "form", type=click.Choice(IMPORTS), required=True, help="What the files hold.")
@click.option("--to", type=_path, required=True, help="A new folder; or a store, or a run that has one.")
@click.option("--as", "name", default="imported", show_default=True, help="The annotator, where rows name none.")
@click.option("--kind", type=click.Choice(("human", "model")), default="human", show_default=True, help="Who judged.")
@click.option("-o", "--option", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the format.")
@click.option("--on-bad-row", type=click.Choice(("error", "skip")), default="error", show_default=True)
@_force
@_json
def import_(
    files: tuple[str, ...],
    form: str,
    to: Path,
    name: str,
    kind: Literal["human", "model"],
    settings: tuple[str, ...],
    on_bad_row: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn FILEs of another tool into tasks and judgements.

    Into a store go judgements of the tasks it has; which it refuses, and why, is listed.

    Labels of votes are 1, a, a1, first, left (the first text); 2, b, a2, second, right (the second); 0, tie, equal;
    a-is-better, a-is-slightly-better and so on. Others: -o values='{yes: 1, no: 0}', label: p of the first text.
    """
    from alignkit.manager import PluginManager
    from alignkit.recipe.check import validated
    from alignkit.recipe.source import Lines
    from alignkit_plugins.command_feedback.importing import write
    from alignkit_plugins.command_feedback.importing.forms import FORMS
    from alignkit_plugins.command_feedback.importing.gather import gather
    from alignkit_plugins.command_feedback.importing.items import Maker

    if not name.strip():
        raise UserError("an annotator has a name", where="--as")
    store = write.store_at(to)
    if store is None:
        write.check_free(to, force)
    options = validated(FORMS[form].options, _settings(settings), Lines("command line"))
    manager = PluginManager()
    manager.load()
    found = gather(files, FORMS[form], options, Maker(name, kind), manager, on_bad_row == "skip")
    written = write.write_store(found, store) if store is not None else write.write_folder(found, to)
    if store is not None and found.rejected:
        write.write_rejected(found.rejected, Path(f"{store}.{write.REJECTED}"))
    _say_imported(found, written, store or to, as_json)


def _say_imported(found: "Gathered", written: "Written", place: Path, as_json: bool) -> None:
    lost = {what: count for what, count in sorted(found.lost.items()) if count}
    if as_json:
        refused = [{"judgement": which, "reason": why} for which, why in written.refused]
        figures = {"rows": found.rows, "rejected": len(found.rejected), "repeated": found.repeated, "lost": lost}
        _print({"to": str(place), **figures, **written._asdict(), "refused": refused})
        return
    click.echo(f"{place}: {written.tasks:,} tasks, {written.judgements:,} judgements from {found.rows:,} rows")
    notes = {
        "rows that could not be used, kept in rejected.jsonl": len(found.rejected),
        "the same judgement again": found.repeated,
        "known to the store before": written.known,
        **{f"not kept: {what}": count for what, count in lost.items()},
        "refused": len(written.refused),
    }
    for what, count in notes.items():
        if count:
            say(f"  {what}: {count:,}", err=True)
    for which, why in written.refused[:SHOWN_REFUSALS]:
        say(f"    {which}: {why}", err=True)
    if len(written.refused) > SHOWN_REFUSALS:
        click.echo(f"    and {len(written.refused) - SHOWN_REFUSALS} more; --json lists them all", err=True)


@command.command("export")
@click.argument("place", type=_path)
@click.option("--format", "form", type=click.Choice(EXPORTS), required=True)
@click.option("--to", type=_new_file, required=True, help="The file to write.")
@_force
@_json
def export(place: Path, form: str, to: Path, force: bool, as_json: bool) -> None:
    """Write the judgements of PLACE in the form of another tool, and say what that form cannot hold."""
    from alignkit.annotation.reading import read_feedback
    from alignkit_plugins.command_feedback.exporting.write import export as write

    summary = write(read_feedback(place), form, to, force)
    if as_json:
        _print(summary)
    else:
        click.echo(f"{to}: {summary['rows']:,} rows")
    for what, count in summary["lost"].items():
        say(f"  not in the file: {what}: {count:,}", err=True)


@command.command("stats")
@click.argument("place", type=_path)
@_json
def stats(place: Path, as_json: bool) -> None:
    """Count the judgements of PLACE and measure how far annotators agree."""
    from alignkit.annotation.reading import read_feedback
    from alignkit_plugins.command_feedback.stats import print_statistics, statistics

    figures = statistics(read_feedback(place))
    if as_json:
        _print(figures)
    else:
        print_statistics(figures, str(place))


@command.command("compare")
@click.argument("first", type=_path)
@click.argument("second", type=_path)
@click.option("--annotator", help="Of SECOND, only what this annotator said.")
@click.option("--html", type=_new_file, help="Write a page with the strongest disagreements.")
@_json
def compare(first: Path, second: Path, annotator: str | None, html: Path | None, as_json: bool) -> None:
    """Hold the judgements of SECOND (a judge's) against those of FIRST (people's) on the tasks both have.

    Of FIRST, annotators that SECOND is made of are left out, and, where people judged, whoever is none.
    """
    from alignkit.annotation.reading import read_feedback
    from alignkit_plugins.command_feedback import comparing

    one, two = read_feedback(first), read_feedback(second)
    tasks = comparing.common_tasks(one, two)
    names = (str(first), str(second)) if first.name == second.name else (first.name, second.name)
    judge = comparing.Side(annotator or names[1], comparing.said_by(two.judgements, annotator, second))
    common = {task.id for task in tasks}
    people = comparing.Side(names[0], [j for j in one.judgements if j.task_id in common])
    _say_compared(tasks, people, judge, html, as_json, {})


@command.command("calibrate")
@click.argument("place", type=_path)
@click.option("--judge", "settings", multiple=True, metavar="KEY=VALUE", help="Options of the judge; name=… is which.")
@click.option("--recipe", help="Take the judge from this recipe.")
@click.option("--source", help="The recipe's variable that holds the judge.")
@click.option("--limit", type=click.IntRange(1), help="Tasks at most: a random sample.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample, and of the judge.")
@click.option("--to", type=_path, help="Keep the judge's answers in this new folder.")
@click.option("--html", type=_new_file, help="Write a page with the strongest disagreements.")
@_force
@_json
def calibrate(
    place: Path,
    settings: tuple[str, ...],
    recipe: str | None,
    source: str | None,
    limit: int | None,
    seed: int,
    to: Path | None,
    html: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Let a judge answer the tasks of PLACE that people answered, and hold it against them.

    What the judge keeps so that no question is paid for twice (judge_cache.sqlite) is made in the current folder.
    """
    from alignkit.annotation.reading import read_feedback
    from alignkit.recipe import ComponentSpec
    from alignkit_plugins.command_feedback import calibrate as calibration
    from alignkit_plugins.command_feedback import comparing
    from alignkit_plugins.command_feedback.importing.write import check_free

    if bool(settings) == bool(recipe) or (source and not recipe):
        raise UserError("give either --judge KEY=VALUE … or --recipe RECIPE [--source VAR]", where="command line")
    if to is not None:
        check_free(to, force)
    people = calibration.human_part(read_feedback(place), limit, seed)
    if recipe:
        spec, policy = calibration.recipe_spec(recipe, source)
    else:
        spec, policy = calibration.judge_spec(settings), ComponentSpec(name="causal_lm")
    judge = calibration.build_judge(spec, policy, seed)
    answers = list(calibration.judged(judge, people.tasks))
    kept = calibration.kept(to, people.tasks, answers) if to is not None else {}
    sides = comparing.Side("people", people.judgements), comparing.Side(spec.name, answers)
    _say_compared(people.tasks, *sides, html, as_json, {"judge": {"name": spec.name, **spec.options}, **kept})


def _say_compared(tasks: Any, first: Any, second: Any, html: Path | None, as_json: bool, more: dict[str, Any]) -> None:
    from alignkit_plugins.command_feedback import comparing

    first, left_out = comparing.independent(first, second)
    found = comparing.checked_comparison(tasks, first, second)
    if html is not None:
        comparing.write_page(html, found, tasks, first, second)
    if as_json:
        _print({**comparing.as_data(found, first, second), "left_out_of_first": left_out, **more})
    else:
        comparing.print_comparison(found, first, second)
    if left_out:
        click.echo(
            f"  left out of {first.name}: {left_out:,} judgements of annotators that {second.name} is made of, "
            "or that are no people",
            err=True,
        )


def _settings(settings: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"{setting!r} is not KEY=VALUE", where="--option", hint="for example -o prompt=instruction")
        found[key] = _option_value(text)
    return found


def _option_value(text: str) -> Any:
    """YAML whose scalars stay text, which the option's type reads: YAML itself takes yes for true."""
    import yaml

    if text in ("null", "~"):
        return None
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  (makes texts, lists and mappings only)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def _print(data: Any) -> None:
    from alignkit.files import json_safe

    say_json(json_safe(data))
