"""The site describes what alignkit ships: plugins that happen to be installed beside it are left out."""

import os
from typing import Any


def on_config(config: Any) -> Any:
    """Runs before any other hook asks for plugins."""
    os.environ["ALIGNKIT_PLUGINS"] = ""
    os.environ.pop("ALIGNKIT_PLUGINS_DIR", None)
    return config
