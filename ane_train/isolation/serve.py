"""What a worker process does around its work: reads a job from stdin, writes findings to stdout.

One marked line of JSON for each finding, written at once, so that all but the last is known
when the process dies. Unmarked lines are somebody else's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, TypeVar

from ane_train.records import from_json, to_json

MARK, DONE = "finding: ", "done"
FAREWELL = 3.0  # seconds for a worker to end by itself
Answers = Generator[tuple[str, Any], None, None]
Job = TypeVar("Job")


def serve(kind: type[Job], work: Callable[[Job], Answers]) -> None:
    """Does the job, a record of this kind, that is on the first line of stdin; ends with stdin."""
    job = from_json(kind, json.loads(sys.stdin.readline()))
    unwanted = threading.Event()
    threading.Thread(target=_watch_stdin, args=(unwanted,), daemon=True).start()
    with closing(work(job)) as answers:
        for word, value in answers:
            print(f"{MARK}{json.dumps({word: to_json(value)})}", flush=True)
            if unwanted.is_set():
                return
    print(f"{MARK}{json.dumps({DONE: True})}", flush=True)


def _watch_stdin(unwanted: threading.Event) -> None:
    """Lets the main thread end between two findings, and ends the process if it hangs."""
    while os.read(0, 1):
        pass
    unwanted.set()
    time.sleep(FAREWELL)
    os._exit(1)
