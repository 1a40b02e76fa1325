"""`ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/nightly.py --data DIR --home DIR`.

Exit codes: 3, another job works on this home; 75, what may pass by itself, start again; 2, a mistake to mend first.
"""

import sys

from hnmine.cli import main

if __name__ == "__main__":
    sys.exit(main(["nightly", *sys.argv[1:]]))
