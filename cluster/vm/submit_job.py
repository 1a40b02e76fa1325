"""Submits a command as a job of the Ray cluster on whose head it runs, shows what the job says, and ends as it ended.

`ray job submit` ends with 0 also where a job is stopped, or the node of its driver dies.

    python submit_job.py hnmine nightly --data DIR --home DIR
"""

from __future__ import annotations

import shlex
import sys
import time
import uuid

ADDRESS = "http://127.0.0.1:8265"
RESOURCES = {"gpu_node": 0.01}
"""Only GPU workers have it, so the first of them is started for the job itself, which holds no GPU."""
_SECONDS = 5.0
_TRIES = 60
"""How often a head that does not answer is asked, one after the other."""


def main(
    command: list[str],
    address: str = ADDRESS,
    resources: dict[str, float] | None = None,
    seconds: float = _SECONDS,
) -> int:
    """Submit, and wait for the end; return the command's own exit code, or 1 where it was stopped or lost."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(address)
    resources = RESOURCES if resources is None else resources
    name = f"job-{uuid.uuid4().hex[:12]}"  # an answer that is lost makes no second job
    print(f"{name}: {shlex.join(command)}", flush=True)
    said, silent, is_submitted = 0, 0, False
    while silent < _TRIES:
        try:
            if not is_submitted:
                client.submit_job(entrypoint=shlex.join(command), submission_id=name, entrypoint_resources=resources)
            is_submitted = True
            time.sleep(seconds)
            job, log = client.get_job_info(name), client.get_job_logs(name)
        except (OSError, RuntimeError) as error:
            is_submitted, silent = is_submitted or "already" in str(error), silent + 1
            print(f"{name}: asked again ({error})", flush=True)
            time.sleep(seconds)
            continue
        silent = 0
        print(log[said:], end="", flush=True)
        said = len(log)
        if job.status.is_terminal():
            print(f"{name}: {job.status.value} {job.message or ''}".rstrip(), flush=True)
            return 0 if job.status == JobStatus.SUCCEEDED else job.driver_exit_code or 1
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
