"""`python -m rlhf_pipelines.cli` is `rlhf`."""

import sys

from rlhf_pipelines.cli.rlhf import main

if __name__ == "__main__":
    sys.exit(main())
