"""One small exception family: every error says what was found, where, and what to do.

Each class also derives from the builtin that a caller would expect, so ``except ValueError``
keeps working.
"""


class SaebookError(Exception):
    """Base of every error raised on purpose by this library."""


class RecordingError(SaebookError, ValueError):
    """A recording file, or its content, can't be used as it is."""


class SelectionError(SaebookError, ValueError):
    """No unit, bin or example is left after the rules that were asked for."""


class StoreError(SaebookError, ValueError):
    """An example store is missing, incomplete, damaged or of another version."""


class ConfigError(SaebookError, ValueError):
    """A setting is unknown, of the wrong type, or contradicts another one."""


class DataError(SaebookError, ValueError):
    """An array or tensor has the wrong shape or values (NaN, negative counts, …)."""


class CheckpointError(SaebookError, ValueError):
    """A saved model or checkpoint can't be read into what was asked for."""


class TrainingError(SaebookError, RuntimeError):
    """Training was refused or stopped; the message names the step and the cause."""


class ParameterError(SaebookError, ValueError):
    """A chapter got an unknown parameter, or one of the wrong type."""


class EnvironmentProblem(SaebookError, RuntimeError):
    """Something outside the project is missing: a system package, an extra, a device."""


class RecordingWarning(UserWarning):
    """A fault in a recording that was survived; the message names file and unit."""
