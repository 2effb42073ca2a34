"""Options of the `data` step."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from alignkit.components import Config
from alignkit.recipe.model import ComponentSpec, SlotOf


class DataConfig(Config):
    """Options of the `data` step."""

    format: Annotated[ComponentSpec, SlotOf("data_format")] = Field(description="form of the rows")
    files: str | tuple[str, ...] | None = Field(
        None,
        description="files (.jsonl, .json, .txt, each also .gz, and .parquet), folders of them, or hub data "
        "sets as owner/name or owner/name:config; none for a format that makes its own rows",
    )
    split: str | None = Field(None, description="split of the hub data sets")
    heldout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="share of the prompts (heldout_by: text: of the texts) that goes to the heldout parts",
    )
    heldout_by: Literal["prompt", "text"] = Field(
        "prompt",
        description="what must not stand on both sides: a prompt (conversations with the same first user "
        "turn count as one), or a text of a pair. Then pairs with one text on each side are left out: of pairs "
        "whose texts are all different, heldout: 0.1 holds out 1 % and leaves out 18 %",
    )
    heldout_seed: int = Field(0, description="another seed holds out other prompts")
    limit: int | None = Field(None, ge=1, description="stop when a part has this many records")
    on_bad_row: Literal["strict", "skip"] = Field(
        "strict",
        description="strict: a bad row stops the run; skip: it is counted and written to rejected.jsonl",
    )
    max_bad_share: float = Field(
        0.5, ge=0.0, le=1.0, description="with skip: more bad rows than this share of all stop the run; 1.0 allows all"
    )
    drop_duplicates: bool = Field(False, description="leave out records that are exactly equal to an earlier one")
    parts_from: tuple[str, ...] = Field(
        (),
        description="earlier steps (@id or @id.part) whose records are added; their heldout records stay held out",
    )

    @field_validator("parts_from")
    @classmethod
    def _references(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for reference in value:
            if not reference.startswith("@"):
                raise ValueError(f"{reference!r} is no reference to a step; write @id, and paths under files")
        return value

    @field_validator("files")
    @classmethod
    def _some(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if value is not None and not all(value or [""]):
            raise ValueError("give at least one file, or leave the key out; a name may not be empty")
        return value

    @property
    def sources(self) -> tuple[str, ...]:
        """`files` as a tuple."""
        return (self.files,) if isinstance(self.files, str) else self.files or ()
