"""Code that a recipe names: it runs only if the person at the keyboard allowed it by name."""

from alignkit.errors import UserError


def require_allowed(name: str, allowed: frozenset[str], where: str | None = None) -> None:
    """Raise UserError unless `name` (`module:function`, or a model that brings code) or its module is in `allowed`."""
    if name not in allowed and name.partition(":")[0] not in allowed:
        raise UserError(
            f"the recipe wants to run code of {name}, which was not allowed",
            where=where,
            hint=f"if you trust it, add --allow-code {name} (or set ALIGNKIT_ALLOW_CODE)",
        )
