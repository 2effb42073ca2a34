"""Finds plugins, keeps broken ones apart, and resolves components by name."""

from alignkit.manager.manager import PluginManager
from alignkit.manager.registered import BUILTIN_DISTRIBUTION, PluginStatus, Registered

__all__ = ["BUILTIN_DISTRIBUTION", "PluginManager", "PluginStatus", "Registered"]
