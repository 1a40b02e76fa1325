"""Words of the command line: its help, and the command that comes next."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import NoReturn

from hnmine.redaction import redacted

DESCRIPTION = """\
Mine hard negatives for your domain, fine-tune a re-ranker on them, and see what it gained.

  hnmine demo                              all of it on a collection that every machine has (10 minutes; --quick: two)
  hnmine inspect  --data DIR               what is in this folder, and what to do next? (seconds; begin here)
  hnmine audit    --data DIR --out DIR     how dangerous is mining in this domain? (a minute)
  hnmine run      --data DIR --out DIR     all of it: mine, train, evaluate; OUT/ranker is what to deploy
  hnmine compare  --data DIR --out DIR     every way to choose negatives, side by side (hours; --quick: 40 minutes)

the steps of run, one by one; what is already done is reused:
  hnmine embed    --data DIR --out DIR     only fill OUT/store with the vectors that it lacks
  hnmine mine     --data DIR --out DIR     hard negatives only: OUT/negatives.parquet, OUT/triplets.parquet
  hnmine train    --data DIR --out DIR     fine-tune on what mine left in OUT
  hnmine evaluate --data DIR --out DIR     re-rank the test queries before and after
  hnmine paired   AFTER BEFORE --out DIR   test two rows of the table against each other

what was mined, looked at:
  hnmine explain  --out DIR QUERY_ID       why a document is a negative, or is none
  hnmine explain  --out DIR --sample 20    triplets to judge as a page; it goes back as sources.verdicts
  hnmine report   --out DIR                make OUT/report.html anew, the page that run, evaluate, compare, audit leave

OUT/ranker, or any model, on its own:
  hnmine rank     --model M --data DIR --out RUN   put a first stage's documents in order; RUN is a TREC run

to take away:
  hnmine export   --out DIR --to FORMAT TARGET     what was mined, for another tool; --list names the formats
  hnmine push     --out DIR --to OWNER/NAME        the ranker to a model hub; nothing is sent unless you say it twice

every night:
  hnmine nightly  --data DIR --home DIR    mine the collection as it is tonight; deploy what is not worse
  hnmine history  --home DIR               the nights: what changed, and what was decided
  hnmine rollback --home DIR               deploy the ranker before the current one again

DIR is a folder with documents, queries and judgements: corpus.jsonl, queries.jsonl and qrels/train.tsv, dev.tsv,
test.tsv; or CSV, Parquet, MS MARCO, TREC, training triples …: `hnmine inspect` says what it is taken for.
`hnmine presets` lists encoders and re-rankers by name.
`hnmine config` lists every setting with its default; a file (--config) or an option (--set step.key=value) changes it.

Exit codes: 0 done; 1 an error of hnmine itself, or of the machine; 2 a mistake that the message tells how to mend;
3 another job works on this HOME; 75 an object store does not answer, or the lock of HOME was lost: try again later;
130 interrupted, 143 terminated. After 75, 130 and 143 the same command goes on from there.
"""
STEPS = {
    "run": "mine, fine-tune and evaluate; what is already done is reused",
    "embed": "encode the documents and queries that the store lacks, and nothing else",
    "mine": "mine the hard negatives of the train pairs",
    "train": "fine-tune the re-ranker on the negatives in OUT",
    "evaluate": "measure first stage, blends and re-rankers on the test queries; leave the best on dev as OUT/ranker",
    "compare": "train a re-ranker with every way to choose negatives, and compare them; goes on where it was stopped",
    "audit": "measure how often right answers without a label would be taken for negatives",
}
EXAMPLES = """\
run --preset paper
run --preset distilled --preset anchored --preset mistakes-of-the-start
embed --set embed.store=s3://bucket/vectors
mine --set select.negatives=4
mine --set 'encoders=[{name: bge, model: BAAI/bge-base-en-v1.5}]'
train --preset distilled --preset mistakes-of-the-start
train --set train.model=cross-encoder/ms-marco-MiniLM-L6-v2
evaluate --set evaluate.queries=200
evaluate --set evaluate.first_stage=run.trec
compare --quick
compare --arms bm25,two-conditions-then-bm25 --seeds 1
compare --quick --arms two-conditions-then-bm25 --set compare.sizes=[100,250,500]
audit --set guards.margin=0.02 --set guards.first_rank=5
"""
"""Examples in the help of each step, without `hnmine`, --data and --out."""
ABOUT_RANK = "put a first stage's documents in order with any model, and write a TREC run; goes on where it was stopped"
RANK_EXAMPLES = """\
examples:
  hnmine rank --data my-search/ --model out/ranker --out run.trec --split test
  hnmine rank --data my-search/ --model BAAI/bge-reranker-v2-m3 --candidates bm25.trec.gz --depth 100 --out run.trec.gz
  hnmine rank --data my-search/ --model all-MiniLM-L6-v2 --candidates dense --set encoders=en-base --out run.trec
M is a ranker, a cross-encoder or a SentenceTransformer: a folder, a hub name, or a name that `hnmine presets` lists.
RUN has a line a document: query_id Q0 doc_id rank score tag, in the order of score; equal scores keep the
order of the first stage. The same command writes the same bytes. To check that the model is served right,
compare these scores with your service's; --dtype float32 leaves out rounding. RUN.work holds what is scored
until RUN is written, and goes then. `hnmine config` lists every setting with its default.
"""


class Parser(argparse.ArgumentParser):
    """A parser that repeats no key of an address."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with a command, and end."""
        super().error(redacted(message))


def next_command(options: argparse.Namespace, command: str) -> str:
    """Return the line that names the next command, with the data, folder and settings of this one."""
    reads_settings = command not in ("history", "rollback")
    words = ["Next: hnmine", command]
    for option in ("data", "out", "home"):
        if (value := getattr(options, option, None)) is not None and (option != "data" or reads_settings):
            words += [f"--{option}", shlex.quote(str(value))]
    return " ".join(words) + (settings_given(options) if reads_settings else "")


def after_evaluation(options: argparse.Namespace, answer: str) -> str:
    """Return the last lines: the page, and the command that the answer names, else one that ranks with OUT/ranker."""
    page, ranker = options.out / "report.html", options.out / "ranker"
    lines = [f"All of it, as a page: {page}"] * page.is_file()
    if (wanted := "--set ranker.choose=blend") in answer:
        lines.append(f"{next_command(options, 'evaluate')} {wanted}")
    elif ranker.is_dir():
        words = ["hnmine", "rank", "--model", ranker, "--data", options.data, "--out", options.out / "run.trec"]
        lines.append(f"Next: {shlex.join(map(str, words))}{settings_given(options)}")
    return "\n".join(lines)


def settings_given(options: argparse.Namespace) -> str:
    """Return --config and --set of a command as they were given, each after a blank."""
    given = [("--config", options.config)] * (options.config is not None) + [("--set", each) for each in options.set]
    return "".join(f" {option} {shlex.quote(str(value))}" for option, value in given)


def remedy_of(verdict: str) -> str:
    """Return the options that the verdict of an audit names as a remedy, after a blank; nothing if it names none."""
    found = re.search(r"(?:mine|train) with (--\S.*)\.$", verdict, re.MULTILINE)
    return f" {found[1]}" if found else ""
