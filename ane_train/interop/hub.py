"""Models of the Hugging Face Hub by name, fetched by huggingface_hub into its own cache.

What was fetched in part goes on where it stopped; progress is shown by that package, on stderr.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from ane_train.errors import CheckpointError, ConfigError
from ane_train.interop.companions import NAMES

PREFIX = "hf:"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ("config.json", "*.safetensors", "*.safetensors.index.json", *NAMES)


def fetch(name: str) -> Path:
    """The folder of a model `hf:owner/name`, with no other files than we read.

    ConfigError if it is no such name or the package is missing; CheckpointError if the hub does not
    give it.
    """
    repository = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(repository):
        raise ConfigError(f"{name}: write {PREFIX}owner/name, as in {PREFIX}Qwen/Qwen3-0.6B")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(f"{name} needs its package: pip install huggingface_hub") from None
    try:
        return Path(
            hub.snapshot_download(repository, allow_patterns=list(_WANTED), ignore_patterns=["*/*"])
        )
    except Exception as error:  # the package raises many kinds, of several others
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot fetch {name}: {reason or type(error).__name__}") from None
