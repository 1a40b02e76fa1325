"""`ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/compare.py --data DIR --out DIR`."""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
