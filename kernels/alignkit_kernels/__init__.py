"""Faster or smaller implementations of core's ops. Core and plugins never import this package; recipes name it."""
