"""`ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/nightly.py --data DIR --home DIR`."""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["nightly", *sys.argv[1:]]))
