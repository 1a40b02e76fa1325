"""`ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/rank.py --model M --data DIR --out RUN`."""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["rank", *sys.argv[1:]]))
