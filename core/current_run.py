"""The run whose stage this process is at work on, for what is paid for deep inside a stage."""

from contextvars import ContextVar

current_run: ContextVar[str] = ContextVar("current_run", default="")
"""Name of the run; "" outside of a stage."""
