"""Registers the embedded demo: the data format `film_world` and the reward source `film_taste`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from alignkit import Component, hookimpl
from alignkit.components import Config
from alignkit.errors import UserError
from alignkit.protocols import SourceRow
from alignkit.records import Demonstration, Prompt, Record, Text, plain_text
from alignkit_plugins.film_world.grammar import openings, reviews
from alignkit_plugins.film_world.taste import true_reward

if TYPE_CHECKING:
    from torch import Tensor

    from alignkit.batches import Rollout

# Keeps the draws of openings apart from those of the reviews.
_OPENINGS_SEED = 1_000_003


class FilmWorldConfig(Config):
    """Options of the `film_world` format."""

    rows: int = Field(20_000, ge=1, description="reviews, each a text and a demonstration")
    prompts: int = Field(2_000, ge=0, description="openings of reviews to continue")
    test_prompts: int = Field(400, ge=0, description="further openings that no prompt and no demonstration has")
    seed: int = Field(0, ge=0, description="seed of the generator")


class FilmWorld:
    """Makes its own rows: parts texts, demonstrations, prompts and heldout_prompts."""

    generates = True

    def __init__(self, config: FilmWorldConfig) -> None:
        self._config = config

    def records(self, rows: Iterable[SourceRow]) -> Iterator[tuple[str, Record]]:
        """The reviews, then the openings. Raises UserError when the language has too few of one."""
        try:
            yield from self._records()
        except ValueError as error:
            raise UserError(str(error), where="format film_world", hint="ask for fewer rows or prompts") from None

    def _records(self) -> Iterator[tuple[str, Record]]:
        seen: set[str] = set()
        for prompt, completion in reviews(self._config.rows, self._config.seed):
            seen.add(prompt)
            yield "texts", Text(text=prompt + completion)
            yield "demonstrations", Demonstration(prompt=prompt, completion=completion)
        train, test = self._config.prompts, self._config.test_prompts
        # In the worst case every opening of a demonstration comes before the last one that is needed.
        found = openings(train + test + len(seen), self._config.seed + _OPENINGS_SEED)
        while train or test:
            opening = next(found)
            if test and opening not in seen:
                test -= 1
                yield "heldout_prompts", Prompt(prompt=opening)
            elif train:
                train -= 1
                yield "prompts", Prompt(prompt=opening)


class FilmTaste:
    """Scores completions with the documented true taste of the simulated readers."""

    def score(self, rollout: "Rollout") -> "Tensor":
        """The true reward of each completion, [B], float32."""
        import torch

        scores = [
            true_reward(plain_text(prompt.prompt), text)
            for prompt, text in zip(rollout.prompts, rollout.texts, strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float32)


@hookimpl
def alignkit_data_formats() -> Iterable[Component]:
    """The generated reviews."""
    return [
        Component(
            "film_world",
            lambda c, _: FilmWorld(c),
            FilmWorldConfig,
            "simulated film reviews, for a demo without files",
        )
    ]


@hookimpl
def alignkit_reward_sources() -> Iterable[Component]:
    """The true taste over them."""
    return [Component("film_taste", lambda c, _: FilmTaste(), summary="the true taste of the simulated film readers")]
