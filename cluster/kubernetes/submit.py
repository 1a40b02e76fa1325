"""Make tonight's RayJob and wait for its end; runs in the pod of the CronJob's Job.

The RayJob is named after the Job and owned by it: a pod that is made anew finds the night under way and waits for it,
and a night goes when its Job is cut from the CronJob's history. Exit code 0: the night succeeded; 1: it did not.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_SERVER = "https://kubernetes.default.svc"
_EXISTS = 409
_REFUSALS = (400, 401, 403, 404, 422)
_ENDS = ("Complete", "Failed", "ValidationFailed")


class RayJobs:
    """The RayJobs of a namespace, at the Kubernetes API; a call that is not answered is made again for a while."""

    def __init__(
        self, server: str, namespace: str, account: Path = _ACCOUNT, seconds: float = 20, tries: int = 30
    ) -> None:
        self.seconds = seconds
        self._address = f"{server}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
        self._account, self._tries = account, tries
        self._tls = ssl.create_default_context(cafile=account / "ca.crt") if server.startswith("https:") else None

    def create(self, rayjob: Json) -> bool:
        """Make it; return whether it is new."""
        try:
            self._call(self._address, json.dumps(rayjob).encode())
        except urllib.error.HTTPError as error:
            if error.code != _EXISTS:
                raise
            return False
        return True

    def status(self, name: str) -> Json:
        """Return what the operator says of it, empty at first."""
        return self._call(f"{self._address}/{name}").get("status") or {}

    def _call(self, address: str, body: bytes | None = None) -> Json:
        for left in reversed(range(self._tries)):
            token = (self._account / "token").read_text().strip()  # read each time: Kubernetes renews it
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            request = urllib.request.Request(address, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=30, context=self._tls) as response:
                    answer: Json = json.load(response)
                return answer
            except OSError as error:
                if not left or getattr(error, "code", None) in (_EXISTS, *_REFUSALS):
                    raise
                say(f"no answer ({error}), asked again")
                time.sleep(self.seconds)
        raise AssertionError


def owned(rayjob: Json, job: str, uid: str) -> Json:
    """Return the RayJob of a Job. Not of its very name: KubeRay makes another Job, named as the RayJob is."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
    return rayjob | {"metadata": rayjob["metadata"] | {"name": f"{job}-ray", "ownerReferences": [owner]}}


def night(rayjobs: RayJobs, rayjob: Json) -> bool:
    """Make the RayJob, or find it, and wait for its end; return whether it succeeded.

    Raises:
        OSError: the API refuses, or does not answer for long.
    """
    name = rayjob["metadata"]["name"]
    found = "made" if rayjobs.create(rayjob) else "is under way already"
    say(f"RayJob {name} {found}; its words: kubectl logs job/{name}")
    state = ""
    while state not in _ENDS:
        time.sleep(rayjobs.seconds)
        status = rayjobs.status(name)
        before, state = state, status.get("jobDeploymentStatus", "")
        if state != before:
            say(" ".join(filter(None, (state, status.get("reason"), status.get("message")))))
    return state == "Complete" and status.get("jobStatus") == "SUCCEEDED"


def say(line: str) -> None:
    """Say it at once, though nobody waits at a terminal."""
    print(line, flush=True)


def main() -> int:
    """Do one night, as the environment of the CronJob's pod tells it."""
    rayjob = yaml.safe_load(Path(sys.argv[1]).read_text())
    try:
        rayjobs = RayJobs(_SERVER, os.environ["NAMESPACE"])
        succeeded = night(rayjobs, owned(rayjob, os.environ["JOB_NAME"], os.environ["JOB_UID"]))
    except OSError as error:
        answer = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
        say(f"error: {error} {answer}".rstrip())
        return 1
    return 0 if succeeded else 1


if __name__ == "__main__":
    sys.exit(main())
