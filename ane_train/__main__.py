"""`python -m ane_train` is `ane-train`."""

from ane_train.cli import main

main()
