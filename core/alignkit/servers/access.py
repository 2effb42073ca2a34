"""Where a server is and what it is opened with. No openai here: configs import this."""

import os
import re

from alignkit.errors import UserError
from alignkit.redact import hide


def plain_address(address: str) -> str:
    """`address` without a slash at its end. Raises ValueError for what is no address, or holds more than one."""
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address begins with http:// or https://")
    # Whatever stands in the recipe is copied into the run's record.
    if parts.username or parts.password or parts.query:
        raise ValueError("an address has no user, password or query; name the key's variable in api_key_env")
    return address.rstrip("/")


def api_key(variable: str | None) -> str | None:
    """The key from the environment variable that an option `api_key_env` names; it is written nowhere."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        # What is no usual name of a variable may be the key itself, given in its place.
        usual = re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", variable)
        name = variable if usual else "that it names (not shown: it may be the key itself)"
        raise UserError(
            f"the environment variable {name} is empty",
            where="api_key_env",
            hint=f"export {variable if usual else 'NAME'}=… before the run; api_key_env is the variable's name",
        )
    hide(key)
    return key


def without_key(text: str, key: str | None) -> str:
    """Servers quote the key in their errors, and may in their answers."""
    return text.replace(key, "[key]") if key else text
