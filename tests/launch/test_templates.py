"""The templates of engines: what they start is a command that there is, with flags that it has."""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pini_jax.core import command, stop
from pini_jax.launch import sweep_run

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def flags_of(made):
    """The names of a command's flags."""
    values = command.flags.FlagValues()
    made.define_flags(values)
    return set(values)


@pytest.mark.parametrize("file", ["slurm.sh", "skypilot.yaml", "tpu_vm.sh"])
def test_what_a_template_starts_is_a_command_with_these_flags(file):
    found = re.findall(r"(?m)^(?!#).*\bsweep run (.*)$", (LAUNCH / file).read_text())
    assert found and all("--nowait" in line for line in found)
    for name in re.findall(r"--(\w+)", " ".join(found)):
        assert name.removeprefix("no") in flags_of(sweep_run.COMMAND)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell(script):
    subprocess.run(["bash", "-n", script], check=True)


def dry_run(*arguments):
    environment = {"DRY_RUN": "yes", "PATH": "/usr/bin:/bin"}
    command = ["bash", LAUNCH / "tpu_vm.sh", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_words_reach_the_hosts_as_they_are():
    _, printed, _ = dry_run("vm", "us-a", "sweep", "--workdir=/a b", "--workers=4")
    *gcloud, remote = shlex.split(printed)
    assert gcloud == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "vm", "--zone=us-a", "--worker=all"]
    assert shlex.split(remote.removeprefix("--command=exec ~/pini/bin/")) == [
        *("pini", "sweep", "run", "--nowait", "--workdir=/a b", "--workers=4")
    ]


def test_what_is_installed_reads_buckets():
    _, printed, _ = dry_run("vm", "us-a", "install")
    installs = shlex.split(printed)[-1].removeprefix("--command=")
    assert "pini_jax[bucket]" in shlex.split(installs)
    # A user's pip puts programs where the shell of `ssh HOST COMMAND` does not look.
    assert all(line.startswith("python3 -m ") for line in installs.split(" && "))


def test_one_run_takes_all_hosts():
    _, printed, _ = dry_run("vm", "us-a", "train", "--config=paper", "--workdir=/a")
    assert "pini train --distributed --config=paper --workdir=/a" in shlex.split(printed)[-1]


def test_an_unknown_action_is_a_usage_error():
    status, printed, said = dry_run("vm", "us-a", "swep")
    assert status == 2 and not printed and said == "error: swep is none of install, sweep and train\n"


def test_the_job_set_starts_a_worker_for_each_chip():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = manifest["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = command.flags.FlagValues()
    sweep_run.COMMAND.define_flags(values)
    assert container["command"][:3] == ["pini", "sweep", "run"]
    values(container["command"][2:])
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert str(values.workers) == chips == container["resources"]["requests"]["google.com/tpu"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert rows * columns == values.workers and not values.wait
    (mounted,) = container["volumeMounts"]
    assert values.workdir.startswith(mounted["mountPath"])


def test_a_pod_that_is_lost_is_replaced_alone():
    """Preempted or stopped, it counts for nothing; and workers of one host each share a node pool."""
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # or a policy of failures is refused
    lost, stopped = spec["podFailurePolicy"]["rules"]
    assert lost == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert stopped == {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [stop.STATUS]}}
    assert "annotations" not in manifest["metadata"]


def test_a_pod_that_ends_with_an_error_ends_no_other():
    """As each does once a run has failed for good: a JobSet ends with the first of its Jobs that fails."""
    yaml = pytest.importorskip("yaml")
    (job,) = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert job["replicas"] == 1 and spec["completions"] == spec["parallelism"] > 1
    assert spec["completionMode"] == "Indexed" and spec["backoffLimitPerIndex"] > 0  # the latter needs the former
    assert not {"backoffLimit", "maxFailedIndexes"} & spec.keys()


def test_the_page_of_gke_builds_for_tpus_and_submits_the_same_command():
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    build, *_, submit = commands_of("gke.md")
    assert build[:4] == ["docker", "build", "--build-arg", "ACCELERATOR=tpu"]
    told = dict(word.removeprefix("--").split("=", 1) for word in submit[3:])
    assert shlex.split(told["command"]) == pod["containers"][0]["command"]
    assert told["topology"] == pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    assert told["num-slices"] == str(job["template"]["spec"]["completions"])


def commands_of(page):
    """The words of each command of a page."""
    text = (ROOT / "docs" / "launch" / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"(?s)```sh\n(.*?)```", text)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.long
def test_the_image_takes_what_an_accelerator_adds(tmp_path):
    """By the versions of the lock, which knows no hashes of it."""
    lines = re.findall(r"(?m)^RUN (.*versions\.txt.*)$", (ROOT / "Dockerfile").read_text())
    script = "\n".join(lines).replace("pip install", f"{sys.executable} -m pip install --dry-run")
    (tmp_path / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    environment = os.environ | {"ACCELERATOR": "tpu"}
    command = ["sh", "-ec", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip("no libtpu for this machine")
    assert done.returncode == 0 and "libtpu" in done.stdout, done.stderr


def test_sky_pilot_starts_again_what_was_stopped():
    yaml = pytest.importorskip("yaml")
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [42] and task["resources"]["use_spot"]
    assert set(re.findall(r"\$(\w+)", task["setup"] + task["run"])) - {"extra"} <= set(task["envs"])


def test_a_pool_of_sky_pilot_is_of_the_machines_of_its_job():
    yaml = pytest.importorskip("yaml")
    job, pool = (yaml.safe_load((LAUNCH / f"{name}.yaml").read_text()) for name in ("skypilot", "skypilot_pool"))
    assert "run" not in pool and pool["setup"] == job["setup"] and pool["envs"].items() <= job["envs"].items()
    assert "job_recovery" not in pool["resources"] and pool["resources"].items() <= job["resources"].items()


READ_TASKS = """
import json, sys, sky
from sky.serve import serve_utils
task, pool = map(sky.Task.from_yaml, sys.argv[1:])
serve_utils.validate_service_task(pool, pool=True)
machines = [machine.to_yaml_config() for machine in task.resources]
print(json.dumps([task.name, task.num_nodes, task.envs, machines, pool.service.min_replicas]))
"""


@pytest.mark.long
def test_sky_pilot_reads_its_tasks(tmp_path):
    """Of its own kind, in an environment of its own."""
    sky, python = tmp_path / "sky" / "bin" / "sky", tmp_path / "sky" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "sky"], check=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", "skypilot"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"SkyPilot cannot be installed: {done.stderr.splitlines()[-1]}")
    own = {"env": {"HOME": str(tmp_path)}, "capture_output": True, "text": True}
    files = (LAUNCH / "skypilot.yaml", LAUNCH / "skypilot_pool.yaml")
    read = subprocess.run([python, "-c", READ_TASKS, *files], **own)
    assert read.returncode == 0, read.stderr
    name, nodes, variables, machines, workers = json.loads(read.stdout.splitlines()[-1])
    assert (name, nodes, set(variables), workers) == ("pini", 1, {"NFS", "WORKDIR", "PACKAGE"}, 16)
    assert all(machine["use_spot"] for machine in machines)
    accelerators = {name for machine in machines for name in machine["accelerators"]}
    assert accelerators == {"tpu-v6e-1", "tpu-v5litepod-1", "L4"}
    assert all(machine["job_recovery"]["recover_on_exit_codes"] == [42] for machine in machines)
    for _, *line in commands_of("skypilot.md"):
        verb = itertools.takewhile(lambda word: word in ("jobs", "pool", "launch", "apply", "down"), line)
        told = subprocess.run([sky, *verb, "--help"], **own).stdout
        assert all(re.search(rf"{word.partition('=')[0]}\b", told) for word in line if word.startswith("--")), told
