"""Errors a user can act on: one clear sentence each, shown without a traceback, exit code 2."""

from __future__ import annotations

__all__ = ["HandfulError", "CaptureError", "ShapeError", "BackendUnavailable", "CheckpointError", "ConfigError"]


class HandfulError(Exception):
    """Base of every error that is the input's or the machine's fault, never ours.

    The message is one sentence: what is wrong, in which file or argument, and what to do.
    """


class CaptureError(HandfulError):
    """The photos, cameras or points given cannot be used."""


class ShapeError(HandfulError):
    """An array has the wrong shape, dtype or device; the message names the argument, what came and what was expected."""


class BackendUnavailable(HandfulError):
    """An optional library, compiler or device is missing; the message says what to install and why it failed."""


class CheckpointError(HandfulError):
    """A saved run cannot be continued with what is asked now."""


class ConfigError(HandfulError):
    """An option has no such name or no such value; the message names the nearest one."""
