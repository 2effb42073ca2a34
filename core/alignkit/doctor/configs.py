"""Checks on the options of a component."""

from collections.abc import Iterator

from pydantic import BaseModel, ValidationError


def config_findings(config: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Code and text of what is wrong with a config class."""
    if config.model_config.get("extra") != "forbid":
        yield "P021", f"{config.__name__} ignores or keeps keys it does not know, so a misspelled option is no error"
    if not config.model_config.get("frozen"):
        yield "P022", f"{config.__name__} is not frozen"
    wrong = wrong_defaults(config)
    if wrong:
        yield "P023", "; ".join(wrong)
    try:
        config.model_json_schema()
    except Exception as error:  # pydantic, or a type's own schema hook
        yield "P024", f"{type(error).__name__}: {str(error).splitlines()[0]}"


def wrong_defaults(config: type[BaseModel]) -> list[str]:
    """Defaults that a recipe could not give: pydantic does not validate them by itself."""
    fields = {
        name: field
        for name, field in config.model_fields.items()
        if not (field.is_required() or field.validation_alias or field.default_factory_takes_validated_data)
    }
    try:
        given = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        config.model_validate(given)
    except ValidationError as error:
        # Other errors are about what has no default, or about several options together.
        return [f"{e['loc'][0]}: {e['msg']}" for e in error.errors() if e["loc"] and e["loc"][0] in given]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return []
