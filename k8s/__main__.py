"""Run studies on Kubernetes: check, submit, watch and delete them.

python -m k8s preflight|submit|watch|delete FILE [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import yaml
from rich.console import Console

from hidfd.cli import Parser, Verb, parse, run_verb
from k8s.client import Api
from k8s.display import JobDisplay, checks_table
from k8s.errors import Forbidden, JobFailedError, JobGoneError, NotFound
from k8s.job.delete import delete as delete_jobs
from k8s.job.purge import purge
from k8s.job.submit import dry_run, is_submitted, jobs_of
from k8s.job.submit import submit as submit_job
from k8s.job.waiting import Waiting
from k8s.job.watch import JobSnapshot, Watcher
from k8s.manifest import Manifests, render
from k8s.preflight.check import Check
from k8s.preflight.run import preflight as run_checks
from k8s.preflight.run import refuse_failed
from k8s.request import Request, read_request

EPILOG = """\
FILE is the study file that `python -m tune run` takes; its section `cluster:` says where it runs.

exit codes:
    0  done; of watch: the job has succeeded
    2  the study file, an override or an argument is wrong
   13  no kubeconfig, no answer, or the API server refuses
   14  preflight: something is missing in the cluster, and nothing was started
   15  the study's job has ended without success
   16  there is no such job, or somebody deleted it
  130  stopped by Ctrl-C; a watched job goes on
"""

PLAIN_WIDTH = 160
"""Columns of a table that is printed to a file or a pipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # this package reports the same as errors of its own
    # A bare --dry-run would take the next word for its value.
    plain = ["--dry-run=client" if word == "--dry-run" else word for word in words]
    return run_verb(parse(_parser(), plain), "python -m k8s", words)


def preflight(options: argparse.Namespace) -> None:
    """Check everything that the study needs of the cluster; start nothing."""
    request = read_request(options.file, options.overrides)
    checks = run_checks(request, Api(options.context))
    if options.json:
        print(json.dumps([check.to_json() for check in checks]))
    else:
        _print_checks(checks)
    refuse_failed(checks)
    if not options.json:
        print(f"next: {_command('submit', options)}")


def submit(options: argparse.Namespace) -> None:
    """Check everything, then start the study as a RayJob; the same request twice is one job."""
    request = read_request(options.file, options.overrides)
    manifests = render(request)
    if options.dry_run == "client":
        if request.unimported:
            print(f"no sha256, so no pod would find it: {', '.join(request.unimported)}", file=sys.stderr)
        _print_objects(manifests.objects, as_json=options.json)
        return
    api = Api(options.context)
    is_unchecked = options.no_preflight or _is_submitted(request, manifests, api)
    checks = [] if is_unchecked else run_checks(request, api, has_dry_run=options.dry_run is None)
    if not options.json:
        _print_checks([check for check in checks if check.todo], stderr=True)  # standard output is for manifests
    refuse_failed(checks)
    if options.dry_run == "server":
        _print_objects(dry_run(manifests, request.cluster.namespace, api), as_json=options.json)
        return
    _submit_and_report(options, request, manifests, api)


def watch(options: argparse.Namespace) -> None:
    """Watch the study's job until it has ended; Ctrl-C ends the watching only."""
    request = read_request(options.file, options.overrides)
    api = Api(options.context)
    jobs = jobs_of(request, api)
    if not jobs:
        raise JobGoneError(
            f"study {request.study!r} has no job in {request.cluster.namespace}; start it with: "
            f"{_command('submit', options)}"
        )
    watcher = Watcher(api, request.cluster.namespace, jobs[0]["metadata"]["name"], every_log=options.logs)
    with JobDisplay(as_json=options.json) as display:
        snapshot = watcher.watch(display.show if options.logs else _without_log_lines(display.show))
    if not options.json:
        print(f"job {snapshot.name} has succeeded: {snapshot.progress.words()}")
        if snapshot.progress.verdict:
            print(snapshot.progress.verdict)
        print(f"the study's page, its figures and its students are in MLflow: {request.storage['tracking']}")
        print(f"next: python -m tune promote {options.file}  (where ledger and store can be reached)")


def delete(options: argparse.Namespace) -> None:
    """End the study's jobs and wait until their pods are gone; keep ledger, store and MLflow, unless --purge."""
    request = read_request(options.file, options.overrides)
    api = Api(options.context)
    waiting = Waiting(options.wait, (lambda words: None) if options.json else print)
    names = delete_jobs(request, api, waiting)
    if options.purge:
        purge(request, api, waiting)
    if options.json:
        print(json.dumps({"deleted": names, "purged": options.purge}))
        return
    if options.purge:
        print(f"study {request.study!r} is forgotten; models that are registered in MLflow stay")
        return
    kept = "ledger, store and MLflow keep what the study has found"
    print(f"{', '.join(names)}: gone; {kept}" if names else f"study {request.study!r} has no job; nothing to delete")
    print(f"goes on with: {_command('submit', options)}")


def _is_submitted(request: Request, manifests: Manifests, api: Api) -> bool:
    """Whether the job exists: then no checks are needed, and its own pods would count against the quota."""
    try:
        return is_submitted(request, manifests, api)
    except (Forbidden, NotFound):  # preflight explains this better
        return False


def _submit_and_report(options: argparse.Namespace, request: Request, manifests: Manifests, api: Api) -> None:
    found = submit_job(request, manifests, api)
    if found.state.has_ended and not found.state.has_succeeded:
        raise JobFailedError(
            f"{found.name} was submitted before and has ended: {found.state}: {found.state.reason_in_words()}; to go "
            f"on with the study, which keeps what is done: {_command('delete', options)}, then submit again"
        )
    if options.json:
        state = found.state
        print(json.dumps({"job": found.name, "new": found.is_new, "deployment_status": state.deployment}))
        return
    if found.is_new:
        print(f"submitted as {found.name} in {request.cluster.namespace}")
    elif found.state.has_succeeded:
        print(f"{found.name} was submitted before, and all that was asked for is done")
        print("to ask for more (study.num_students, study.budget, study.seeds), change the file and submit again")
        return
    else:
        print(f"{found.name} was submitted before: {found.state}")
    print(f"next: {_command('watch', options)}")


def _without_log_lines(show: Callable[[JobSnapshot], None]) -> Callable[[JobSnapshot], None]:
    """Leave out the driver's lines for people: the table says the same."""
    return lambda snapshot: show(replace(snapshot, lines=()))


def _print_checks(checks: Sequence[Check], *, stderr: bool = False) -> None:
    if checks:
        console = Console(stderr=stderr, highlight=False, markup=False)
        if not console.is_terminal:
            console.width = PLAIN_WIDTH
        console.print(checks_table(checks), crop=False)


def _print_objects(objects: Sequence[dict[str, object]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
    else:
        print(yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False), end="")


class _Dumper(yaml.SafeDumper):
    """YAML with texts of several lines as blocks, and without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _command(verb: str, options: argparse.Namespace) -> str:
    context = [] if options.context is None else ["--context", options.context]
    return shlex.join(["python", "-m", "k8s", verb, options.file, *options.overrides, *context])


def _parser() -> Parser:
    parser = Parser(prog="python -m k8s", description="Run studies on Kubernetes, by KubeRay.", epilog=EPILOG)

    def add(name: str, verb: Verb) -> Parser:
        added = parser.add_verb(name, verb, "FILE [options] [key=value ...]")
        added.add_argument("--context", help="context of the kubeconfig; default its current one")
        return added

    add("preflight", preflight)
    submitting = add("submit", submit)
    submitting.add_argument(
        "--dry-run",
        choices=["client", "server"],
        help="print the manifests and start nothing; --dry-run=server: as the API server would store them",
    )
    submitting.add_argument("--no-preflight", action="store_true", help="start the study without the checks")
    watching = add("watch", watch)
    watching.add_argument("--logs", action="store_true", help="show what the driver and Ray's pods print")
    deleting = add("delete", delete)
    deleting.add_argument(
        "--wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="longest wait for pods to be gone, and with --purge as long again for data; default 300",
    )
    deleting.add_argument("--purge", action="store_true", help="delete what the study has found as well, for good")
    return parser


if __name__ == "__main__":
    sys.exit(main())
