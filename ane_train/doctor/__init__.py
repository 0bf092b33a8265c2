"""What works on this machine: every program and op, compiled, evaluated and compared.

Nothing here prints. `examine` makes the whole report; cases run in processes of their own, so that
one that crashes ends nothing but itself.
"""

from __future__ import annotations

from ane_train.doctor.examine import examine
from ane_train.doctor.report import Report
from ane_train.doctor.settings import Settings

__all__ = ["Report", "Settings", "examine"]
