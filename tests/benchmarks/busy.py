"""How fast a training is alone, and beside one busy program, by how long threads spin:

    python -m tests.benchmarks.busy [GOMP_SPINCOUNT ...]

The busy program has a session of its own, as a browser has: the system shares the cores out among
sessions. unset: what `minilm` sets."""

import os
import re
import subprocess
import sys
import tempfile

COMMAND = ["train_pretrain.py", "--minutes", "0.5", "--evaluations", "1", "--run"]


def rate(spin: str) -> str:
    """The tokens per second of a short default pretraining."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *COMMAND, f"{folder}/run"], check=True, capture_output=True, text=True,
            env=os.environ | (dict(GOMP_SPINCOUNT=spin) if spin != "unset" else {}),
        )  # fmt: skip
    return re.search(r"tokens per second +([\d,]+)", done.stdout)[1]


if __name__ == "__main__":
    print("GOMP_SPINCOUNT  alone  beside a busy program")
    for spin in sys.argv[1:] or ["unset", "300000", "3000", "300"]:
        alone = rate(spin)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        print(spin, alone, rate(spin), sep="  ", flush=True)
        busy.kill()
