#!/usr/bin/env bash
# Ray 2.60.0: with Ray Data's pool of actors, a block that only waits in an actor's queue pays for the death of the actor
# under another block. By default an actor is given blocks ahead; when a block kills it, those that wait lose a try too, and
# with `max_task_retries` bounded (the default, for ever, would let the one bad block go in circles) a good block that stood
# behind a bad one twice is given up. With `max_errored_blocks=-1` its rows are missing from the result, and nothing is
# raised. `max_tasks_in_flight_per_actor=1` keeps the loss to the block that kills. Which block waits is a matter of time,
# so the default is tried up to six times. Here a row ends its own process, as running out of memory would.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "ray[data]==2.60.0" numpy==2.4.0 pandas==2.3.3
cat >blocks.py <<'PY'
import logging
import os
import time

import ray
from ray.data import ActorPoolStrategy, DataContext

logging.getLogger("ray.data").setLevel(logging.CRITICAL)
ray.init(num_cpus=1, log_to_driver=False, logging_level=logging.ERROR, object_store_memory=10**8)
context = DataContext.get_current()
context.enable_progress_bars = context.print_on_execution_start = False
context.max_errored_blocks = -1


class Work:
    def __call__(self, rows):
        time.sleep(0.5)
        if 0 in rows["item"]:
            os._exit(1)
        return rows


def left(**ahead):
    done = ray.data.from_items(list(range(8)), override_num_blocks=8).map_batches(
        Work,
        batch_size=1,
        compute=ActorPoolStrategy(size=1, **ahead),
        ray_remote_args_fn=lambda: {"max_task_retries": 1},
    )
    return sorted(row["item"] for row in done.iter_rows())


by_default = (left() for _ in range(6))
lost = next((set(range(1, 8)) - set(rows) for rows in by_default if len(rows) < 7), set())
print("SEEN by default good rows are lost without an error:", bool(lost))
kept = [left(max_tasks_in_flight_per_actor=1) for _ in range(2)]
print("SEEN one block at a time:", kept)
PY
venv/bin/python blocks.py 2>/dev/null | tee seen.txt
diff <(grep ^SEEN seen.txt) - <<'EXPECTED'
SEEN by default good rows are lost without an error: True
SEEN one block at a time: [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]]
EXPECTED
echo "as described"
