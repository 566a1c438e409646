"""Each file is of its schema, and what it has a shell do is done here, with one requirement."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from groovy_parser.parser import parse_and_digest_groovy_content

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCHEMAS = {
    "github/action.yml": "vendor.github-actions",
    "github/hosted.yml": "vendor.github-workflows",
    "github/self-hosted.yml": "vendor.github-workflows",
    "gitlab-ci.yml": "vendor.gitlab-ci",
}
REAL = {"conform": "FBA-017", "report": "", "hugepages": "", "peers": "--list"}
VALUES = {  # of GitHub's expressions
    "inputs.target": "pyeal",
    "inputs.peer": "",
    "inputs.reserve": "2M:16",
    "inputs.ids": "",
    "runner.name": "runner 1",
    "matrix.eal": "pyeal",
    "matrix.name": "small",
    "matrix.reserve": "2M:16",
}


def load(name):
    return yaml.safe_load((HERE / name).read_text())


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name):
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name]]
    argv += ["--data-transform", "gitlab-ci"] * name.startswith("gitlab")
    done = subprocess.run([*argv, HERE / name], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_kubernetes_schema():
    job = load("kubernetes-job.yaml")
    kubernetes_validate.validate(job, "1.34", strict=True)
    resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]

    assert resources["requests"] == resources["limits"]  # of hugepages they must be
    assert "hugepages-2Mi" in resources["limits"]


def test_jenkinsfile_is_groovy():
    assert parse_and_digest_groovy_content((HERE / "Jenkinsfile").read_text())


@pytest.mark.parametrize("name", ["github/hosted.yml", "github/self-hosted.yml"])
def test_jobs_name_labels_that_are_described(name):
    known = set(re.findall(r"`([\w-]+)`", (ROOT / "docs/runners.md").read_text()))
    wanted = set()
    for job in load(name)["jobs"].values():
        runs = [job["runs-on"]] + [
            i["runner"] for i in job.get("strategy", {}).get("matrix", {}).get("include", [])
        ]
        wanted |= {label for r in runs for label in ([r] if isinstance(r, str) else r)}

    assert {w for w in wanted if "$" not in w} <= known | {"self-hosted", "ubuntu-24.04"}


# --- the steps


@pytest.fixture
def checkout(tmp_path):
    """A folder with this project's commands: the suite runs one requirement, sudo does nothing."""
    (tmp_path / "ci/workflows").mkdir(parents=True)
    shutil.copytree(HERE / "github", tmp_path / "ci/workflows/github")
    (tmp_path / "bin").mkdir()
    for name, args in REAL.items():
        script = tmp_path / "ci" / name
        script.write_text(f'#!/bin/sh\nexec {ROOT}/ci/{name} "$@" {args}\n')
        script.chmod(0o755)
    (tmp_path / "bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "bin/sudo").chmod(0o755)
    return tmp_path


def run(checkout, script, env=None):
    env = {
        **os.environ,
        "PATH": f"{checkout}/bin:{os.environ['PATH']}",
        "GITHUB_ACTION_PATH": str(checkout / "ci/workflows/github"),
        "GITHUB_STEP_SUMMARY": str(checkout / "summary.md"),
        **(env or {}),
    }
    argv = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    done = subprocess.run(argv, cwd=checkout, env=env, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stdout + done.stderr


def filled(text):
    return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda m: VALUES[m[1]], str(text))


def github():
    for name in SCHEMAS:
        if name.startswith("github"):
            facts = load(name)
            jobs = facts.get("jobs") or {"action": facts["runs"]}
            for step in (s for job in jobs.values() for s in job["steps"] if "run" in s):
                yield pytest.param(step, id=f"{name}: {step['name']}")


BEFORE = {"summary": "conform-report", "merge": "conform-1"}  # a step -> the report it finds


@pytest.mark.skipif(os.geteuid() != 0, reason="wanted root for hugepages")
@pytest.mark.parametrize("step", [*github()])
def test_github_step(checkout, step):
    name, env = step["name"], {k: filled(v) for k, v in step.get("env", {}).items()}
    if name == "base and head in one job":
        pytest.skip("wanted a quiet machine for minutes; units/test_bench.py has --against")
    if name == "peer":
        env = {"EAL": "librte_eal:22.11"}
    if folder := BEFORE.get(name):
        run(checkout, f"ci/conform --target pyeal --host one --report {folder}")
    run(checkout, filled(step["run"]), env)

    if name in BEFORE:
        assert "FBA" in (checkout / "summary.md").read_text()
    elif name != "peer":
        assert list(checkout.glob("conform-report*/run.jsonl"))


@pytest.mark.skipif(os.geteuid() != 0, reason="wanted root for hugepages")
def test_gitlab_steps(checkout):
    facts = load("gitlab-ci.yml")
    job = facts[".conform"] | facts["pyeal"]
    env = {"CI_RUNNER_DESCRIPTION": "runner 1", "CI_JOB_NAME_SLUG": "pyeal", "RESERVE": "2M:16"}
    run(checkout, "\n".join(job["script"]), env | facts["pyeal"]["variables"])
    run(checkout, "\n".join(job["after_script"]))
    run(checkout, "\n".join(facts["report"]["script"]))

    assert (checkout / "report/index.html").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="wanted root for hugepages")
def test_jenkins_step(checkout):
    (script,) = re.findall(r"sh '(.*)'", (HERE / "Jenkinsfile").read_text())
    run(checkout, script.replace("2M:512", "2M:16"), {"NODE_NAME": "agent 1"})

    assert (checkout / "conform-report/junit.xml").exists()


def test_kubernetes_command(checkout):
    (c,) = load("kubernetes-job.yaml")["spec"]["template"]["spec"]["containers"]
    argv = [a.replace("$(NODE)", "node 1").replace("/report", "report") for a in c["command"]]
    run(checkout, shlex.join(argv))

    assert (checkout / "report/run.jsonl").exists()
