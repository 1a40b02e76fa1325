"""Training data out of a corpus alone: its headings as queries, each page with that heading as the right answer.

    python benchmarks/headings.py --data DIR --out DIR [--pairs 2000] [--template '{title} {heading}']

Writes a BEIR folder with the documents of DIR and its dev and test queries, whose train queries are Markdown headings
(`## …`) of at least three words that no other page has. A re-ranker that reads the beginning of a page does not see the
heading, and learns what a page of this domain is about. Asked here: does it help a re-ranker that was never tuned in
the domain (benchmarks/LOG.md)?
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

_HEADING = re.compile(r"^#{2,4} +(.{8,120}?) *#*$", re.MULTILINE)
_MARKUP = re.compile(r"[`*_\\]|\[|\]\([^)]*\)")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with corpus.jsonl.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--template", default="{heading}", help="a query; may use any field at the top of a document")
    options = parser.parse_args()
    with gzip.open(options.data / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = [(row, heading) for row in rows for heading in headings(row["text"])]
    pages = Counter(heading.lower() for _, heading in found)
    titles = {row["title"].lower() for row in rows}
    unique = [one for one in found if pages[one[1].lower()] == 1 and one[1].lower() not in titles]
    drawn = np.random.default_rng(0).permutation(len(unique))[: options.pairs]
    shutil.rmtree(options.out, ignore_errors=True)
    shutil.copytree(options.data / "qrels", options.out / "qrels")
    (options.out / "corpus.jsonl.gz").symlink_to((options.data / "corpus.jsonl.gz").resolve())
    with (options.out / "queries.jsonl").open("w", encoding="utf-8") as queries:
        queries.write((options.data / "queries.jsonl").read_text(encoding="utf-8"))
        qrels = ["query-id\tcorpus-id\tscore"]
        for at in drawn.tolist():
            row, heading = unique[at]
            text = options.template.format(**row | {"heading": heading})
            queries.write(json.dumps({"_id": f"heading-{at}", "text": text}) + "\n")
            qrels.append(f"heading-{at}\t{row['_id']}\t1")
    (options.out / "qrels" / "train.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    print(f"{len(unique):,} headings of {len(rows):,} documents, {len(drawn):,} of them drawn")


def headings(text: str) -> list[str]:
    """Return the distinct headings of at least three words below the first level."""
    plain = (_MARKUP.sub("", match.group(1)).strip() for match in _HEADING.finditer(text))
    return list(dict.fromkeys(heading for heading in plain if len(heading.split()) >= 3))


if __name__ == "__main__":
    main()
