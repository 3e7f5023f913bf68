"""How large the images are and how soon a step in them works: prints a table. The engine must have them.

python benchmarks/images.py --repeats 5
"""

import argparse
import statistics
import time
from typing import Any

from rlhf_pipelines.local.containers.engine import check_images, connect
from rlhf_tuning.images import IMAGES

#: What a step of each image imports before its work begins; the longest of them.
_WORK = {"light": "rlhf_tuning.data.importer", "trainer": "rlhf_tuning.training.reinforcement"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="starts of each kind; the median is printed")
    repeats = parser.parse_args().repeats
    client = connect()
    check_images(client, IMAGES.values())
    print("| image | size, MB | Python starts, s | kfp's executor is ready, s | the step's libraries are loaded, s |")
    print("|---|---|---|---|---|")
    for kind, image in IMAGES.items():
        size = client.images.get(image).attrs["Size"] / 1e6
        programs = ("pass", "import kfp.dsl.executor_main", f"import kfp.dsl.executor_main, {_WORK[kind]}")
        seconds = [start_seconds(client, image, program, repeats) for program in programs]
        print(f"| {kind} | {size:,.0f} | {' | '.join(f'{value:.2f}' for value in seconds)} |")


def start_seconds(client: Any, image: str, program: str, repeats: int) -> float:
    """Return the median time from nothing to the end of a container that runs `program`, after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        started = time.monotonic()
        client.containers.run(image, ["python3", "-c", program], network_mode="none", remove=True)
        times.append(time.monotonic() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
