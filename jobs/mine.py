"""`ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/mine.py --data DIR --out DIR`."""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["mine", *sys.argv[1:]]))
