"""alignkit's own records as JSONL: a row with candidates is a task, one with a task_id a judgement."""

from pydantic import ValidationError

from alignkit.components import Config
from alignkit.data.rows import BadRow
from alignkit.protocols import SourceRow
from alignkit.records import Judgement, Task
from alignkit_plugins.command_feedback.importing.items import row_object


class NativeOptions(Config):
    """Options of `jsonl`: none."""


def native_record(source: SourceRow) -> Task | Judgement:
    """The record of a row. Raises BadRow."""
    row = row_object(source)
    model: type[Task] | type[Judgement] = Judgement if "task_id" in row else Task
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        name = model.__name__.lower()
        raise BadRow(f"not a {name}: {field}: {first['msg']}".replace(": : ", ": "), reason=f"no {name}") from None
