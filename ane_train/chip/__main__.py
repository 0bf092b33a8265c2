"""`python -m ane_train.chip`: a worker process; users call `ane-train bench`."""

from __future__ import annotations

from ane_train.chip.worker import main

main()
