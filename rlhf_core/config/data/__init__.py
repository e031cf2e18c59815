"""The data section: the sources of rows, how they are split, and the rules that rows must meet."""

from rlhf_core.config.data.rules import Rules
from rlhf_core.config.data.section import Data
from rlhf_core.config.data.source import Source

__all__ = ["Data", "Rules", "Source"]
