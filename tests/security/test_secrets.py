"""A secret that a run was given reaches no file, no page and no server."""

import logging
import os
import subprocess
import sys

import pytest
import yaml
from support.fake_wandb import KEY, fake_wandb
from support.make_runs import evaluation_rows, metrics_rows

from rlresearch.config.changes import Change
from rlresearch.config.compose import compose
from rlresearch.errors import ConfigError
from rlresearch.loggers.tail import RowFollower
from rlresearch.loggers.tensorboard import TensorBoard
from rlresearch.loggers.wandb import client
from rlresearch.loggers.wandb.settings import WandbSettings
from rlresearch.review.__main__ import main as review
from rlresearch.storage import redaction
from rlresearch.storage.jsonl import JsonLines
from rlresearch.storage.provenance import provenance
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training import resume, run_directories
from rlresearch.training.experiment import plan

CANARIES = [f"canary{number:02d}xyzzy" for number in range(40)]
_next = iter(CANARIES).__next__
IN_SETTINGS = {
    "api_key": _next(),
    "token": _next(),
    "client_secret": _next(),
    "password": _next(),
    "passphrase": _next(),
    "db_passwd": _next(),
    "credentials": {"user_token": _next(), "keys": [_next(), _next()]},
    "AWS_SECRET_ACCESS_KEY": _next(),
    "url": f"https://user:{_next()}@example.org/path",
    "proxy": f"http://{_next()}@proxy:3128",
    "dsn": f"postgresql://me:{_next()}@db/x?sslmode=require",
    "header": f"Authorization: Bearer {_next()}",
    "urls": [f"amqp://me:{_next()}@queue/", 3],
    "note": f"as Basic {_next()}== it is sent",
}
IN_WORDS = [
    f"env.kwargs.api_key={_next()}",
    f"--token={_next()}",
    *("--password", _next()),
    f"env.kwargs={{secret: {_next()}, size: 3}}",
    f"env.kwargs.url=https://me:{_next()}@example.org",
    f'+own={{"access_token": "{_next()}"}}',
]
IN_ERRORS = [
    f"cannot reach https://me:{_next()}@example.org/v1",
    f"401 for url: https://example.org/?api_key={_next()}&page=2",
    f"bad credentials: token={_next()}",
    f"{{'password': '{_next()}', 'user': 'me'}}",
    f"request had Authorization: Basic {_next()}",
    f"headers={{'authorization': 'Bearer {_next()}'}}",
    f"secret: {_next()}",
    f'{{"client_secret":"{_next()}"}}',
]
IN_ENVIRONMENT = {
    name: _next()
    for name in (
        *("OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_SECRET", "HF_TOKEN"),
        *("SMTP_PASSWD", "SIGNING_KEY", "SERVICE_CREDENTIAL", "GPG_PASSPHRASE"),
    )
}


def test_forty_canaries_are_planted():
    assert found(f"{IN_SETTINGS}{IN_WORDS}{IN_ERRORS}{IN_ENVIRONMENT}") == CANARIES


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose configuration, command, environment and end are full of secrets."""
    for name, value in IN_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    path = RunDirectory.create(tmp_path / "runs", "ddpg", "pendulum", 0)
    path.record(**provenance(["python", "-m", "rlresearch", *IN_WORDS], IN_WORDS))
    run_directories.write_config(path, {"seed": 0, "algo": {"gamma": 0.98}, "env": {"kwargs": IN_SETTINGS}})
    for name, rows in (("metrics", metrics_rows()), ("evaluations", evaluation_rows())):
        file = JsonLines(path.path / f"{name}.jsonl")
        for row in rows:
            file.write(row)
        file.close()
    for told in [*IN_ERRORS, *(f"the value was {value}" for value in IN_ENVIRONMENT.values())]:
        try:
            raise ValueError(told)
        except ValueError as error:
            logging.getLogger("rlresearch").error("failed", exc_info=error)
            path.record(status="failed", reason={"kind": "ValueError", "error": str(error)})
            assert "canary" not in (path.path / "run.json").read_text()
    path.close()
    yield path.path


def found(text):
    return [each for each in CANARIES if each in text]


def test_no_file_of_a_run_holds_a_secret(run):
    for file in run.rglob("*"):
        assert not found(file.read_text()), file
    config = yaml.safe_load((run / "config.yaml").read_text())["env"]["kwargs"]
    assert (config["api_key"], config["dsn"]) == ("***", "postgresql://***@db/x?sslmode=require")
    assert "ValueError: cannot reach https://***@example.org/v1" in (run / "log.txt").read_text()


def test_no_page_and_no_mirror_is_given_a_secret(run, tmp_path, monkeypatch, capsys):
    # As a run of an older version, which kept them: what is sent is looked at again.
    (run / "config.yaml").write_text(yaml.safe_dump({"seed": 0, "env": {"kwargs": IN_SETTINGS}}))
    with fake_wandb() as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        client.fill(run, RowFollower(run).rest(), WandbSettings(entity="lab"), 120.0)
        assert len(server.history(run.name)) == 15
        for path, headers, body in server.requests:
            assert not found(f"{path}{headers}{body.decode(errors='replace')}")
            assert KEY.encode() not in body
    TensorBoard(run).close()
    (run / "config.yaml").unlink()
    page = tmp_path / "report.html"
    review(["report", "--runs-dir", str(run.parents[1]), "--no-cache", "--all", "-o", str(page)])
    capsys.readouterr()
    for file in [page, *run.rglob("*")]:
        if file.is_file():
            assert not found(file.read_bytes().decode(errors="replace")), file


def test_wandbs_own_files_hold_no_secret_either(run, tmp_path, monkeypatch):
    with fake_wandb("gone") as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        connection = client.Connection(run, WandbSettings(mode="offline"), 120.0)
        connection.send(RowFollower(run).rest())
        connection.finish()
    kept = [file for file in (run / "wandb").rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in kept)
    for file in kept:
        content = file.read_bytes().decode(errors="replace")
        assert not found(content) and KEY not in content, file


def test_what_is_no_secret_stays():
    for word in ["algo.gamma=0.9", "seed=3", "env.id=Keyboard-v0", "buffer.n_step=3", "https://example.org/a@b"]:
        assert redaction.redacted([word]) == [word] and redaction.text(word) == word
    config = {"num_tokens": 64, "keep_last": 3, "monkey": True, "id": "key-v0", "hidden": [64, 64], "none": None}
    assert redaction.settings(config) == config


def test_a_configuration_without_its_secrets_asks_for_them_again():
    config = compose(["env=gym", "env.id=MountainCarContinuous-v0", "tuned=none"]).config
    config["env"]["kwargs"] = {"api_key": "***"}
    with pytest.raises(ConfigError, match=r"env.kwargs.api_key=\*\*\*: is a secret.*say it again"):
        plan(config)


def test_a_run_that_goes_on_takes_its_secrets_again_and_writes_them_nowhere():
    config = {"total_steps": 5, "env": {"kwargs": {"api_key": "***", "url": "https://***@example.org", "size": 3}}}
    stored = resume.StoredRun(None, [], 0, config, {})
    given = {"env.kwargs.api_key": "canary00xyzzy", "env.kwargs.url": "https://me:canary01xyzzy@example.org"}
    again, changed = resume.apply_changes(stored, [Change(key, value) for key, value in given.items()])
    assert again["env"]["kwargs"] == {"api_key": given["env.kwargs.api_key"], "url": given["env.kwargs.url"], "size": 3}
    assert changed == {}
    with pytest.raises(ConfigError, match="env.kwargs.size=4: cannot be changed"):
        resume.apply_changes(stored, [Change("env.kwargs.size", 4)])


def test_the_process_beside_a_run_keeps_the_key_out_of_the_run(run, tmp_path):
    """WANDB_API_KEY itself is sent where it belongs, in a header, and stands nowhere else."""
    with fake_wandb() as server:
        environment = os.environ | server.environment(tmp_path) | {"PYTHONPATH": os.getcwd()}
        code = "import sys; from rlresearch.review.__main__ import main; sys.exit(main(sys.argv[1:]))"
        words = ["sync", run.name, "--runs-dir", str(run.parents[1]), "--no-cache", "--to", "wandb", "--entity", "lab"]
        answer = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert any("Authorization" in headers for _, headers, _ in server.requests)
        assert not any(KEY.encode() in body for _, _, body in server.requests)
    for file in run.rglob("*"):
        assert not file.is_file() or KEY not in file.read_bytes().decode(errors="replace"), file
    assert KEY not in answer.stdout + answer.stderr and not found(answer.stdout + answer.stderr)
