"""`ray job submit --working-dir . -- python jobs/run.py --data DIR --out DIR`."""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
