"""`ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/train.py --data DIR --out DIR`."""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
