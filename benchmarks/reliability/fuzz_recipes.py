"""Recipes that went wrong: the shipped ones with values, keys, references or characters changed."""

import copy
import random
from typing import Any, NamedTuple

import yaml

from alignkit.recipe.load import shipped_recipes

# A file of preference pairs that lies beside the recipe.
DATA = "data.jsonl"
COMPONENTS = (
    "dpo", "kto", "orpo", "sft", "pretrain", "ppo", "gspo", "cispo", "reinforce", "grpo", "rloo", "remax",
    "reinforce_pp", "hf", "ai", "mixed", "weighted", "function", "length", "overlong", "simulated", "film_world",
    "preference", "hh", "classes", "text", "prompts", "train", "align", "collect", "evaluate", "jsonl", "progress",
    "triton", "eager", "chunked",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -1e308, float("nan"), float("inf"), 10**30, "", " ", "x" * 5000, "../..",
    "/dev/zero", "/dev/stdin", "/", ".", "~nobody/x", "~", "$", "$$", "$x", "${x}", "$reward_source", "@",
    "@latest", "@.x", "@sft..x", "@corpus", "@corpus.heldout_prompts", "@@", [], {}, [[]], [None], [{}],
    {"name": None}, {"name": {}}, {"name": "ppo"}, {"name": "gae", "x": 1}, {"": 1}, "owner/name", "a" * 300,
    "a/" * 3000, "é漢🙂", "a\nb", "%s", "{0}", "{{ x }}", "-", "--json", "2026-01-01", "1:20", "null", "0x10",
    "1_000", "yes", "ppo", "gae", "causal_lm", "reward_model", "data", "1e-3", "auto", "cpu", "cuda:99", "meta",
    "human", "nan", *COMPONENTS, *({"name": name} for name in COMPONENTS), DATA, "é" * 70_000, ["x"] * 5000,
    {str(n): n for n in range(2000)},
)  # fmt: skip
PIECES = (
    "\t", ":", ": ", "- ", "{", "}", "[", "]", "&a ", "*a", "!!int ", "!!float ''", "!!timestamp x", "!!binary x",
    "!!set ", "!!python/object/apply:os.system [id]", "| ", "> ", "\x00", "\ufeff", "%YAML 1.2\n", "---\n",
    "...\n", "<<: *a\n", "'", '"', "\\", '"\\U99999999"', '"\\ud800"', "#", "? ", "\u2028", "\x85", "\n", "  ",
    "$", "@", ",", "=", "!", "[" * 400, "{a: " * 200, "\x1b[2J", "🙂", "\r", "0" * 5000, "0x" + "f" * 5000,
)  # fmt: skip
KEYS = (
    "lr", "name", "id", "x", "", "seed", "steps", "vars", "plugins", "trackers", "policy", "model", "path", "files",
    "format", 1, None,
)  # fmt: skip
OVERRIDES = ("=", "x", "=1", "a.b.c", "steps=1", "vars=1", ".=1", "vars.=1", "..=", "name=../x", "seed=[&a 1, *a]")


class Case(NamedTuple):
    """A recipe's bytes and what the command line adds."""

    data: bytes
    overrides: tuple[str, ...]


def generate(seed: int) -> Case:
    """One recipe that is likely to be wrong."""
    rng = random.Random(f"recipe {seed}")
    text = rng.choice(list(shipped_recipes().values())).read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    if rng.random() < 0.8:
        tree = _with_data(tree)
        text = yaml.safe_dump(tree, sort_keys=False)
    overrides = tuple(_override(tree, rng) for _ in range(rng.choice((0, 0, 0, 1, 2))))
    if rng.random() < 0.7:
        for _ in range(rng.choice((1, 1, 2, 5))):
            tree = _changed_tree(tree, rng)
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5)
        if rng.random() < 0.9:
            return Case(text.encode(), overrides)
    for _ in range(rng.choice((1, 1, 3, 10))):
        text = _changed_text(text, rng)
    data = text.encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + rng.randrange(2) :]
    return Case(data, overrides)


def _with_data(tree: dict[str, Any]) -> dict[str, Any]:
    """The recipe with a file for every variable that has no value."""
    variables = {name: DATA if value is None else value for name, value in tree.get("vars", {}).items()}
    return {**tree, "vars": variables}


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, value in inner for place in _places(value, (*path, key)))]


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _changed_tree(tree: Any, rng: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    places = [place for place in _places(tree) if place]
    if not places:
        return tree
    path = rng.choice(places)
    owner, key = _at(tree, path[:-1]), path[-1]
    way = rng.randrange(9)
    if way <= 2:
        owner[key] = copy.deepcopy(rng.choice(VALUES))
    elif way == 3:
        del owner[key]
    elif way == 4 and isinstance(owner, dict):
        owner[_misspelt(str(key), rng)] = owner.pop(key)
    elif way == 5:
        owner[key] = copy.deepcopy(_at(tree, rng.choice(places)))
    elif way == 6:
        for _ in range(rng.choice((1, 1, 1, 3, 100))):
            owner[key] = rng.choice(([owner[key]], {"name": owner[key]}, {"a": owner[key]}))
    elif way == 7 and isinstance(owner, list):
        owner.insert(rng.randrange(len(owner) + 1), copy.deepcopy(owner[key]))
    elif isinstance(owner, dict):
        owner[
            rng.choice(
                (
                    "lr",
                    "name",
                    "id",
                    "x",
                    "",
                    "seed",
                    "steps",
                    "vars",
                    "plugins",
                    "trackers",
                    "policy",
                    "model",
                    "path",
                    "files",
                    "format",
                    1,
                    None,
                )
            )
        ] = rng.choice(VALUES)
    else:
        rng.shuffle(owner)
    return tree


def _misspelt(name: str, rng: random.Random) -> str:
    at = rng.randrange(len(name) + 1)
    return name[:at] + rng.choice("abx_ ") + name[at + rng.randrange(2) :]


def _changed_text(text: str, rng: random.Random) -> str:
    way = rng.randrange(5)
    at = rng.randrange(len(text) + 1)
    if way <= 1:
        return text[:at] + rng.choice(PIECES) + text[at:]
    if way == 2:
        return text[:at] + text[at + rng.choice((1, 2, 30)) :]
    lines = text.split("\n")
    number = rng.randrange(len(lines))
    if way == 3:
        lines.insert(rng.randrange(len(lines) + 1), lines[number])
    else:
        lines[number] = rng.choice((" ", "    ", "\t", "")) + lines[number].lstrip()
    return "\n".join(lines)


def _override(tree: Any, rng: random.Random) -> str:
    if rng.random() < 0.15:
        return rng.choice(
            ("=", "x", "=1", "a.b.c", "steps=1", "vars=1", ".=1", "vars.=1", "..=", "name=../x", "seed=[&a 1, *a]")
        )
    path = [key for key in rng.choice(_places(tree)) if key != "steps"]
    steps = tree.get("steps", [])
    if path and isinstance(path[0], int) and path[0] < len(steps) and isinstance(steps[path[0]], dict):
        path[0] = steps[path[0]].get("id", "x")
    value = rng.choice(VALUES)
    text = rng.choice((str(value), yaml.safe_dump(value).strip(), rng.choice(PIECES)))
    return ".".join(map(str, path)) + "=" + text
