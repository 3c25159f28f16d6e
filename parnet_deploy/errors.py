"""Every error that a user can cause, in one tree: what went wrong, where, and the remedy."""

from __future__ import annotations

from pathlib import Path

# Remedies for files that are damaged, foreign or of another version, wherever that is found out.
EXPORT_AGAIN = "export the bundle again: parnet-deploy export CHECKPOINT -o BUNDLE"
BUILD_AGAIN = "build the plan again on this machine: parnet-deploy build BUNDLE -o PLAN"

# What the command line returns when Ctrl-C ended it: 128 and the number of SIGINT, as a shell has it.
INTERRUPTED = 130


class ParNetError(Exception):
    """Base of all errors that are reported without a traceback.

    `exit_code` is what the command line returns: 2 for bad input, 1 for a check that failed.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.remedy = remedy

    def __str__(self) -> str:
        located = self.what if self.where is None else f"{self.where}: {self.what}"
        return located if self.remedy is None else f"{located}\n  remedy: {self.remedy}"


class ArtifactError(ParNetError):
    """A checkpoint, bundle, plan or report that is missing, damaged, foreign or of another schema."""


class OutputExistsError(ArtifactError):
    """The output is already there and would be overwritten."""


class CheckpointError(ParNetError):
    """Weights that cannot be read, trusted or matched to a network."""


class DownloadError(ParNetError):
    """Weights that cannot be fetched, or that are not what was recorded when they were first seen."""


class NetworkError(ParNetError):
    """A network configuration or input size that the architecture cannot take."""


class FusionError(ParNetError):
    """A model that the fusion rules do not cover."""


class ExportError(ParNetError):
    """A graph that cannot be exported, cleaned or partitioned."""


class QuantizationError(ParNetError):
    """A bundle that cannot be quantised, or not for that target."""


class EngineError(ParNetError):
    """An engine that cannot be built, loaded or run."""


class InferenceError(ParNetError):
    """A request that the session cannot take, or a stage that failed while it ran."""


class DataError(ParNetError):
    """Images, labels or data sets that cannot be read."""


class MissingDependencyError(ParNetError):
    """An optional package that the request needs is not installed."""


class CheckFailedError(ParNetError):
    """A comparison that ended beyond its tolerance."""

    exit_code = 1
