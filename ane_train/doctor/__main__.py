"""`python -m ane_train.doctor`: a worker process; users call `ane-train doctor`."""

from __future__ import annotations

from ane_train.doctor.worker import main

main()
