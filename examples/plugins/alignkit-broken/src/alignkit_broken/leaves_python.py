"""Ends the process while it is imported, as some modules do when something they need is missing."""

import sys

sys.exit("this needs a machine that you do not have")
