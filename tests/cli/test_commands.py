"""Wrong commands: one line with key, value, what is allowed and the nearest name; exit code 2, before TensorFlow."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import NEEDED

from rlresearch.config.compose import CONFIG_FOLDER, compose
from rlresearch.config.dotted import flattened
from rlresearch.errors import ConfigError
from rlresearch.runners import Host, Population
from rlresearch.training.experiment import plan

CAR = "env=gym env.id=MountainCarContinuous-v0"
PAIR = "runner=population runner.seeds=2"
LINE = "schedule@optimizer.schedule=linear"


def wrong(command, *fragments, about=None, id=None):
    """about: what the line begins with, by default the command's last word without `+`."""
    return pytest.param(command, about or command.split()[-1].lstrip("+"), fragments, id=id or command)


# FOLDER is a folder with a file `file`, modules `odd`, which registers environments, and `unfinished`.
WRONG = [
    # names of groups and options
    wrong("algo=td4", "did you mean 'td3'?", "Allowed: ", "ddpg, ", "sac, "),
    wrong("algo=DPG", "did you mean 'ddpg'?"),
    wrong("env=pendulm", "did you mean 'pendulum'?", "gym"),
    wrong("network=actor_critc", "did you mean 'actor_critic'?"),
    wrong("buffer=unifrom", "did you mean 'uniform'?"),
    wrong("noise=gausian", "did you mean 'gaussian'?", "ou"),
    wrong("optimizer=adm", "did you mean 'adam'?", "rmsprop"),
    wrong("runner=devise", "did you mean 'device'?", "host", "population"),
    wrong("logger=ofline", "did you mean 'offline'?", "quiet"),
    wrong("eval=finl", "did you mean 'final'?", "default"),
    wrong("checkpoint=nope", "did you mean 'none'?", "default"),
    wrong("tuned=nothing", "did you mean 'none'?"),
    wrong("experiment=nothing", "there is no such option"),
    wrong("alg=ddpg", "did you mean 'algo'?", "total_steps"),
    wrong("algo=null", "c51, ", "ddpg, "),
    wrong("algo=[ddpg,td3]", "must be one option"),
    wrong("schedule@noise.schedule=linier", "did you mean 'linear'?", "constant"),
    wrong("schedule@noise.schdule=linear", "did you mean 'schedule@noise.schedule'?"),
    wrong("schedule=linear", "schedule@noise.schedule"),
    wrong("hydra/launcher=nope", "allowed: basic"),
    wrong("~algo", "algo=OPTION", about="~algo: a run cannot do without it"),
    wrong("~env", about="~env: a run cannot do without it"),
    # names of settings
    wrong("seeed=1", "did you mean 'seed'?", "total_steps"),
    wrong("+sed=3", "did you mean 'seed'?"),
    wrong("+unknown=3", "allowed: total_steps"),
    wrong("++unknown=3", "allowed: total_steps"),
    wrong("algo.gama=0.9", "algo=ddpg", "did you mean 'algo.gamma'?", "Allowed: gamma, tau"),
    wrong("+algo.gama=0.9", "did you mean 'gamma'?", "Allowed: gamma, tau"),
    wrong("alog.gamma=0.9", "did you mean 'algo.gamma'?"),
    wrong("gama=0.9", "did you mean 'algo.gamma'?"),
    wrong("batch_size=32", "did you mean 'algo.batch_size'?"),
    wrong("optimizer.learning_rate=0.1", "optimizer=adam", "lr, b1"),
    wrong("env.numenvs=2", "did you mean 'env.num_envs'?"),
    wrong("env.physics.h=2", "env=pendulum", "allowed: g."),
    wrong("network.actor.hiden=[64]", "did you mean 'network.actor.hidden'?", "activation"),
    wrong("network.actr.hidden=[64]", "did you mean 'network.actor.hidden'?", "actor, critic"),
    wrong("noise=none noise.sigma=0.1", "noise=none", "allowed: nothing"),
    wrong("runner.seeds=3", "runner=device"),
    wrong("algo.gamma.x=3", "algo.gamma has no settings of its own"),
    wrong("~algo.gama", "did you mean 'algo.gamma'?", about="~algo.gama"),
    wrong("hydra.verbos=true", "did you mean 'hydra.verbose'?"),
    # types and ranges
    wrong("algo.gamma=2", "a number from 0 to 1"),
    wrong("algo.gamma=nan", "a finite number from 0 to 1"),
    wrong("algo.gamma=inf", "a finite number from 0 to 1"),
    wrong("algo.gamma=high", "a number from 0 to 1"),
    wrong("algo.gamma=null", "a number from 0 to 1"),
    wrong("algo.gamma=true", "a number from 0 to 1"),
    wrong("algo.gamma=", "algo.gamma=''", "a number from 0 to 1"),
    wrong("algo.gamma=[1]", "a number from 0 to 1"),
    wrong("algo.tau=0", "a number above 0 and at most 1"),
    wrong("algo.batch_size=3.5", "a whole number above 0"),
    wrong("algo.learning_starts=-1", "a whole number of at least 0"),
    wrong("algo.random_start=yes", "true or false"),
    wrong("seed=-1", "a whole number of at least 0"),
    wrong("seed=1.5", "a whole number"),
    wrong("seed=true", "a whole number"),
    wrong("total_steps=0", "a whole number above 0"),
    wrong("total_steps=1e5", "a whole number above 0", "did you mean '100000'?", about="total_steps=100000.0"),
    wrong("total_steps=many", "a whole number above 0"),
    wrong("deterministic=maybe", "true or false"),
    wrong("threads=0", "a whole number above 0, or null"),
    wrong("device=tpu", "one of auto, cpu, gpu", "did you mean 'gpu'?"),
    wrong("eval.episodes=0", "a whole number above 0"),
    wrong("eval.every_steps=-5", "a whole number above 0, or null"),
    wrong("checkpoint.keep_last=-1", "a whole number of at least 0"),
    wrong("checkpoint.every_minutes=0", "a number above 0, or null"),
    wrong("checkpoint.if_it_fails=ignore", "one of continue, stop"),
    wrong("checkpoint.every_step=5", "did you mean 'checkpoint.every_steps'?"),
    wrong("resume=nowhere", "must be a run directory"),
    wrong("init_from=3", "must be text"),
    wrong("logger.console=loud", "one of auto, live, plain, none"),
    wrong("logger.console=lve", "did you mean 'live'?"),
    wrong("optimizer.lr=0", "a number above 0"),
    wrong("optimizer.lr=nan", "a finite number above 0"),
    wrong("optimizer.lr=.inf", "a number above 0"),
    wrong("optimizer.b1=1", "of at least 0 and below 1"),
    wrong("noise.sigma=-1", "of at least 0"),
    wrong("env.physics.g=-1", "of at least 0"),
    wrong("env.num_envs=0", "a whole number above 0"),
    wrong("env.vectorization=asinc", "one of sync, async", "did you mean 'async'?"),
    wrong("network.actor.hidden=64", "a list, like [64,64]", "a whole number above 0"),
    wrong("network.actor.hidden=[0]", "a list, like [64,64]", "a whole number above 0"),
    wrong("network.actor.hidden=[64,x]", "a list, like [64,64]", "a whole number above 0"),
    wrong("network.actor.activation=rellu", "relu, tanh", "did you mean 'relu'?"),
    wrong("network.actor.kernel_initializer=glorot", "did you mean 'glorot_normal'?", "he_uniform"),
    wrong("optimizer.schedule=3", "must be a component"),
    wrong("schedule@optimizer.schedule=linear optimizer.schedule.per=stepp", "step, episode", "did you mean 'step'?"),
    wrong(
        "schedule@noise.schedule=piecewise noise.schedule.boundaries=[1,2]",
        "2 boundaries",
        "3 factors",
        about="noise.schedule",
    ),
    # components
    wrong("network.actor=64", "must be a component, with a _target_"),
    wrong("network.actor._target_=rlresearch.networks.MPL", "must name a dataclass", "did you mean 'MLP'?"),
    wrong("network.actor._target_=rlresearch.network.MLP", "No module named", "did you mean 'networks'?"),
    wrong("network.actor._target_=os.system", "must name a dataclass in os"),
    wrong("network.actor._target_=MLP", "must be a dotted name"),
    wrong("network.policy._target_=rlresearch.networks.MLP", "no such setting", "actor, critic"),
    wrong(
        "+network.policy._target_=rlresearch.networks.MLP",
        "DDPG has no such network",
        "actor, critic",
        about="network.policy=",
    ),
    wrong("~network.actor", "DDPG needs it", about="network.actor is missing"),
    wrong(
        "~buffer.capacity ~buffer.n_step buffer._target_=rlresearch.noise.NoNoise",
        "lacks add",
        about="buffer: NoNoise cannot stand here",
    ),
    wrong("algo=c51 env=cartpole tuned=none", "C51 needs a number", about="algo.v_min is missing"),
    wrong("algo=c51 env=cartpole algo.v_min=100", "above algo.v_min, which is 100", about="algo.v_max=100"),
    wrong("algo=dqn", "env 'Pendulum-v1' has a vector of 1", about="DQN needs discrete actions"),
    wrong("algo=qr_dqn", "env 'Pendulum-v1' has a vector of 1", about="QR-DQN needs discrete actions"),
    wrong("algo=dqn env=cartpole buffer=prioritized buffer.alpha=1.5", "from 0 to 1"),
    wrong("algo=dqn env=cartpole tuned=none noise=ou", "lacks choose", about="algo.noise: OrnsteinUhlenbeck cannot"),
    wrong(
        "algo=dqn env=cartpole network=dueling network.q.hidden=[]",
        "dueling needs at least one layer",
        about="network.q.hidden=[]",
    ),
    wrong("runner._target_=rlresearch.noise.NoNoise", "start", about="runner: NoNoise cannot stand here"),
    # environments
    wrong("env=gym", "env.id=MountainCarContinuous-v0", about="env.id is missing"),
    wrong("env=gym env.id=MountainCarContinous-v0", "did you mean 'MountainCarContinuous-v0'?"),
    wrong("env=gym env.id=nomodule:Foo-v0", "cannot import 'nomodule'"),
    wrong("env=gym env.id=CartPole-v1", "'CartPole-v1' has 2 discrete ones", about="DDPG needs continuous actions"),
    wrong(f"{CAR} env.kwargs={{goal_velocty:3}}", "did you mean 'goal_velocity'?", about="env.kwargs.goal_velocty=3"),
    wrong(f"{CAR} env.kwargs.goal_velocity=3", "env.kwargs={goal_velocity:...}"),
    wrong("algo=dqn env=gym env.id=CliffWalking-v1", "env.max_episode_steps=STEPS", about="env.id=CliffWalking-v1"),
    wrong("+env.kwargs={g:1}", "env.physics.g", about="env.kwargs.g=1"),
    wrong("--config-dir=FOLDER env=gym env.id=odd:DictObs-v0", "Dict observations", "allowed: Box"),
    wrong("--config-dir=FOLDER env=gym env.id=odd:TupleObs-v0", "Tuple observations", "allowed: Box"),
    wrong("--config-dir FOLDER env=gym env.id=odd:Unbounded-v0", "unbounded actions", "finite bounds"),
    wrong("--config-dir FOLDER env=gym env.id=odd:Multi-v0", "MultiDiscrete actions", "allowed: Box or Discrete"),
    wrong("--config-dir=FOLDER env=gym env.id=odd:Broken-v0", "cannot be made", "two lines"),
    wrong("--config-dir=FOLDER env=gym env.id=odd:Brken-v0", "did you mean 'Broken-v0'?"),
    wrong("--config-dir=FOLDER env=gym env.id=unfinished:Any-v0", "cannot import 'unfinished'", "invalid syntax"),
    # parts that do not fit
    wrong("buffer.capacity=10", "algo.batch_size, which is"),
    wrong("env.num_envs=300 buffer.capacity=200", "env.num_envs, which is 300", about="buffer.capacity=200"),
    wrong("algo.learning_starts=30000", "below total_steps, which is 20000"),
    wrong("algo=ppo buffer=uniform", "PPO learns from rollouts, but Uniform offers transitions", about="buffer: "),
    wrong("algo=dqn env=cartpole buffer=rollout", "DQN learns from transitions, but Rollout offers", about="buffer: "),
    wrong("algo=ppo noise=gaussian", "PPO explores by itself", about="noise: "),
    wrong("algo=ppo buffer.capacity=100", "buffer=rollout"),
    wrong("algo=ppo algo.learning_starts=100", "rollout_steps"),
    wrong("algo=ppo tuned=none algo.minibatches=3", "must divide the 2048 rows of a rollout"),
    wrong("algo=ppo tuned=none total_steps=2047", "at least one rollout, which is 2048"),
    wrong(f"{LINE} optimizer.schedule.per=episode", "a number with per=episode", about="optimizer.schedule.over=null"),
    wrong(f"{LINE} optimizer.schedule.over=5000", "the learning rate is 0 for 75%", about="optimizer.schedule: "),
    wrong("env.num_envs=64 algo.update_every=400", "no update falls due from step 0 to 20000"),
    wrong("network.actor.output_activation=linear", "must be tanh or softsign for DDPG"),
    wrong("buffer.n_step=9 env.num_envs=64 buffer.capacity=500", "which is 576", about="buffer.capacity=500"),
    wrong(f"{CAR} runner=device", "needs a compiled environment", "runner=host"),
    wrong(f"{CAR} runner=population", "needs a compiled environment", "runner=host"),
    wrong("runner=population runner.seeds=0", "a whole number above 0"),
    wrong(f"{PAIR} runner.values=3", "a mapping, like {key:value}"),
    wrong(f"{PAIR} runner.values={{algo.gama:[0.9,0.99]}}", "did you mean 'algo.gamma'?", "optimizer.lr"),
    wrong(f"{PAIR} runner.values={{algo.batch_size:[8,16]}}", "members cannot differ in this", "algo.gamma"),
    wrong(f"{PAIR} runner.values={{algo.gamma:[0.9]}}", "a list of 2 values"),
    wrong(f"{PAIR} runner.values={{algo.gamma:0.9}}", "a list of 2 values"),
    wrong(f"{PAIR} runner.values={{algo.gamma:[0.9,2.0]}}", "a number from 0 to 1", about="algo.gamma=2.0"),
    wrong(f"{PAIR} runner.values={{algo.gamma:[0.9,x]}}", "a number from 0 to 1", about="algo.gamma=x"),
    wrong(f"{PAIR} runner.values={{optimizer.lr:[0.1,nan]}}", "a finite number above 0", about="optimizer.lr=nan"),
    # places
    wrong("runs_dir=FOLDER/file", "is not a folder", "runs_dir=PATH"),
    wrong("runs_dir=FOLDER/file/runs", "is not a folder"),
    wrong("runs_dir=/proc/nope", "cannot be written"),
    wrong("runs_dir=", "runs_dir=''", "is empty"),
    wrong("runs_dir=null", "must be text"),
    wrong("--config-dir=/nope", "must be a folder that exists"),
    wrong("--config-dir=FOLDER/file", "must be a folder that exists"),
    # spelling of the command
    wrong("algo==ddpg", "must be KEY=VALUE"),
    wrong("foo", "must be KEY=VALUE"),
    wrong("algo.gamma=[1,2", "must be KEY=VALUE", "KEY=[1,2]"),
    wrong("algo.gamma={a", "must be KEY=VALUE"),
    wrong("\u0430lgo.gamma=0.9", "'\u0430' in the key is cyrillic small letter a"),
    wrong("algo.gamma=${nope}", "'nope' not found"),
    wrong("algo.gamma=${algo.gama}", "did you mean 'algo.gamma'?"),
    wrong("algo.gamma=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
    wrong("seed=0,1", "several values need -m"),
    wrong("--config-name=nope", "--config-dir=FOLDER"),
    wrong("--confg-dir=FOLDER", "did you mean '--config-dir'?", about="unrecognized arguments: --confg-dir"),
    wrong("--run -m seed=1", about="--run and --multirun do not go together"),
    wrong("--cfg jb", "'jb'", "'job'", about="argument --cfg"),
    wrong("--cfg job algo=td4", "did you mean 'td3'?"),
    # sweeps
    wrong("-m seed=0,1,x", "a whole number", about="seed=x"),
    wrong("-m algo=ddpg,td4", "did you mean 'td3'?", about="algo=td4"),
    wrong("-m algo.gamma=0.9,1.1", "a number from 0 to 1", about="algo.gamma=1.1"),
    wrong("-m sed=1,2", "did you mean 'seed'?", about="sed=1"),
    wrong("-m seed=interval(0,1)", "a list or a range"),
    wrong("-m seed=range(0)", "at least one value"),
    wrong("-m algo=glob(zz*)", "at least one value"),
    wrong("-m seed=1,2 runs_dir=/proc/nope", "cannot be written"),
    # length
    wrong(f"algo.gamma={'x' * 3000}", "a number from 0 to 1", about="algo.gamma=xxx", id="a long value"),
    wrong(f"{'z' * 3000}=3", "there is no such setting", about="zzz", id="a long key"),
    wrong(
        f"network.actor.hidden=[{'0,' * 2000}0]",
        "a list, like [64,64]",
        about="network.actor.hidden=[0,0,0",
        id="a long list",
    ),
    wrong(f"env=gym env.id={'q' * 2000}", "must be registered", about="env.id=qqq", id="a long environment"),
]
COMMANDS = [each.values[0] for each in WRONG]

ODD = """
import gymnasium as gym, numpy as np
from gymnasium import spaces

class Fine(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))

class DictObs(Fine):
    observation_space = spaces.Dict(a=spaces.Discrete(2))

class TupleObs(Fine):
    observation_space = spaces.Tuple([spaces.Discrete(2)])

class Unbounded(Fine):
    action_space = spaces.Box(-np.inf, np.inf, (1,))

class Multi(Fine):
    action_space = spaces.MultiDiscrete([2, 3])

class Broken(Fine):
    def __init__(self):
        raise RuntimeError("two\\nlines")

for cls in (Fine, DictObs, TupleObs, Unbounded, Multi, Broken):
    gym.register(f"{cls.__name__}-v0", cls)
"""

# All commands in one process: Python starts once.
DRIVER = """
import contextlib, io, json, shlex, sys
from rlresearch.training.run import Run
from rlresearch.cli.main import main

Run.execute = lambda self: 0.0  # a command that is accepted must not train
answers = []
for command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["rlresearch", *shlex.split(command)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main()
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    tensorflow = "tensorflow.python" in sys.modules
    answers.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "tf": tensorflow})
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What FOLDER stands for."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "file").write_text("")
    (folder / "odd.py").write_text(ODD)
    (folder / "unfinished.py").write_text("def f(:\n")
    return folder


@pytest.fixture(scope="module")
def answers(folder, tmp_path_factory):
    """What each command was answered, and the empty folder in which they were given."""
    here = tmp_path_factory.mktemp("here")
    commands = json.dumps([command.replace("FOLDER", str(folder)) for command in COMMANDS])
    done = _python("-c", DRIVER, cwd=here, input=commands)
    assert done.returncode == 0, done.stderr
    assert list(here.iterdir()) == [] and done.stderr == ""
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True))


def _python(*arguments, cwd, input=None, **variables):
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path} | variables
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, input=input, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command, about, fragments", WRONG)
def test_a_wrong_command_is_answered_in_one_line_with_key_value_and_what_is_allowed(
    command, about, fragments, answers, folder
):
    answer = answers[command]
    line = answer["err"]
    assert answer["code"] == 2
    assert answer["out"] == "" and line.count("\n") == 1 and line.endswith("\n")
    assert line.startswith(f"rlresearch: {about.replace('FOLDER', str(folder))}")
    assert len(line) < 400
    for fragment in fragments:
        assert fragment in line
    assert "Traceback" not in line and "_target_," not in line
    assert not answer["tf"]


def test_the_table_is_long_and_names_no_command_twice():
    assert len(set(COMMANDS)) == len(COMMANDS) >= 55


def test_an_accepted_command_would_be_noticed(tmp_path):
    """The driver tells 0 for a right command, so that the table can fail."""
    done = _python("-c", DRIVER, cwd=tmp_path, input=json.dumps(["seed=1"]))
    assert json.loads(done.stdout)[0]["code"] == 0


@pytest.mark.parametrize("command", ["algo=td4", "algo.gama=0.9", "+unknown=3", "env=gym env.id=CartPole-v1"])
def test_a_typo_is_answered_before_anything_slow_is_loaded(command, tmp_path):
    answer = _loading(command, tmp_path, code=2)
    assert answer.stdout == "" and answer.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Each takes from half a second to nine to be loaded.
SLOW = ("tensorflow.python", "keras", "scipy", "matplotlib", "plotly", "optuna", "wandb.sdk", "pyarrow", "starlette")
NOTED = f"""
import atexit, runpy, sys
atexit.register(lambda: print("loaded:", [name for name in {SLOW} if name in sys.modules], file=sys.__stderr__))
runpy.run_module("rlresearch", run_name="__main__", alter_sys=True)
"""


def _loading(command, cwd, code):
    """The answer of `python -m rlresearch`, which has loaded nothing slow and started no process."""
    done = _python("-c", NOTED, *shlex.split(command), cwd=cwd)
    *said, loaded = done.stderr.splitlines(keepends=True)
    assert done.returncode == code and loaded == "loaded: []\n"
    done.stderr = "".join(said)
    return done


def test_what_is_slow_would_be_noticed(tmp_path):
    done = _python("-c", NOTED.replace("runpy.run_module", "import scipy; sys.exit"), cwd=tmp_path)
    assert "loaded: ['scipy']" in done.stderr


RIGHT = [
    "algo=td3",
    "noise=ou noise.theta=0.2",
    "optimizer=adamw optimizer.weight_decay=0.1",
    "eval=final",
    "logger=quiet",
    "seed=9223372036854775807",
    "algo.gamma=1",
    "algo.gamma=0",
    "++algo.gamma=0.9",
    "~algo.gamma",
    "~experiment",
    "algo.tau=1e-3",
    "threads=2",
    "network.actor.hidden=[]",
    "network.actor.hidden=[400,300] network.critic.layer_norm=true",
    "'network.actor.output_initializer=\"uniform(0.003)\"'",
    "schedule@optimizer.schedule=linear optimizer.schedule.over=1000 optimizer.schedule.end=0.1",
    "schedule@noise.schedule=piecewise noise.schedule.boundaries=[5,9] noise.schedule.factors=[1,0.5,0.1]",
    "optimizer.max_grad_norm=1",
    "env.num_envs=8",
    "env.physics.g=9.81",
    "env.max_episode_steps=50",
    "runner=host",
    "runner=host env.vectorization=async",
    f"{CAR}",
    f"{CAR} env.kwargs={{goal_velocity:0.1}}",
    "runner=population",
    "runner=population runner.seeds=4 runner.values={algo.gamma:[0.9,0.95,0.98,0.99]}",
    "runner=population runner.seeds=2 runner.values={algo:{gamma:[0.9,1]},optimizer.lr:[1e-3,1e-4]}",
    "algo=ppo env=cartpole runner=population runner.seeds=2 runner.values={algo.clip_schedule.end:[0.0,0.1]}",
    "algo=a2c env=cartpole normalize=running",
    "total_steps=1_000",
]


@pytest.mark.parametrize("command", RIGHT)
def test_a_right_command_is_accepted(command):
    plan(compose(shlex.split(command)).config)


def test_what_is_accepted_reaches_the_plan():
    command = "runner=population runner.seeds=2 runner.values={algo.gamma:[0.9,1]} env.num_envs=8 noise=ou"
    made = plan(compose(shlex.split(command)).config)
    assert isinstance(made.runner, Population) and made.runner.paths == {"gamma": [0.9, 1]}
    assert made.task.num_envs == 8
    assert type(made.trainer.algo.noise).__name__ == "OrnsteinUhlenbeck"
    assert isinstance(plan(compose(shlex.split(CAR)).config).runner, Host)


def test_tuned_settings_apply_by_themselves_and_can_be_switched_off():
    assert compose([]).choices["tuned"] == "ddpg_pendulum"
    assert compose([]).config["algo"]["gamma"] == 0.98
    assert compose(["tuned=none"]).config["algo"]["gamma"] == 0.99
    assert compose(["algo.gamma=0.9"]).config["algo"]["gamma"] == 0.9


def test_ones_own_folder_adds_options_and_components(folder):
    own = folder / "algo"
    own.mkdir(exist_ok=True)
    shipped = (CONFIG_FOLDER / "algo" / "ddpg.yaml").read_text()
    (own / "mine.yaml").write_text(shipped.replace("gamma: 0.99", "gamma: 0.5"))
    (own / "deep").mkdir(exist_ok=True)
    (own / "deep" / "mine.yaml").write_text(shipped)
    made = plan(compose(["algo=mine"], str(folder)).config)
    assert made.trainer.algo.gamma == 0.5
    plan(compose(["algo=deep/mine"], str(folder)).config)
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        compose(["algo=mne"], str(folder))


OPTIONS = sorted(str(path.relative_to(CONFIG_FOLDER).with_suffix("")) for path in CONFIG_FOLDER.glob("*/*.yaml"))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_shipped_option_begins_with_what_it_is(name):
    lines = (CONFIG_FOLDER / f"{name}.yaml").read_text().splitlines()
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert first.startswith("# ") and len(first) > 10


@pytest.mark.parametrize("name", OPTIONS)
def test_every_shipped_option_composes_and_each_of_its_keys_is_read(name):
    """`plan` refuses a key that is no field of a component, so what it takes is read."""
    composed, command = _first_plan(name)
    settings = _own_settings(CONFIG_FOLDER / f"{name}.yaml")
    prefix = "" if "# @package _global_" in (CONFIG_FOLDER / f"{name}.yaml").read_text() else _place(command)
    for key, value in settings.items():
        follows = str(value).startswith("${") and composed[str(value)[2:-1]]
        assert composed[prefix + key] == (follows or value)


def _first_plan(name):
    """Settings by dotted key of the first command with this option that can run, and that command."""
    group, option = name.split("/")
    algos = [Path(each).name for each in OPTIONS if each.startswith("algo/")]
    envs = [Path(each).name for each in OPTIONS if each.startswith("env/") and each != "env/gym"]
    # Those whose own choice it is come first: to compose one that it does not fit takes a quarter of a second.
    own = {a for a in algos if f"/{name.replace('/', ': ')}\n" in (CONFIG_FOLDER / f"algo/{a}.yaml").read_text()}
    pairs = sorted(((a, e) for e in envs for a in algos), key=lambda pair: pair[0] not in own)
    learner = {(a, e): [f"algo={a}", f"env={e}", *NEEDED.get(a, []), "tuned=none"] for a, e in pairs}
    commands = {
        "algo": [learner[option, env] for env in envs if group == "algo"],
        "env": [[f"algo={algo}", f"env={option}", *NEEDED.get(algo, []), "tuned=none"] for algo in algos],
        "schedule": [[f"schedule@optimizer.schedule={option}"]],
        "tuned": [
            [f"algo={algo}", f"env={env}"] for algo in algos for env in envs if option in (f"{algo}_{env}", "none")
        ],
    }.get(group, [[f"{group}={option}", *each] for each in (["tuned=none"], *learner.values())])
    if name == "tuned/none":
        commands = [["tuned=none"]]
    if name == "env/gym":
        commands = [[*each, "env.id=MountainCarContinuous-v0"] for each in commands]
    refused = []
    for command in commands:
        composed = compose(command)
        if group == "tuned":
            assert composed.choices["tuned"] == option
        try:
            plan(composed.config)
        except ConfigError as error:
            refused.append(error)
            continue
        return flattened(composed.config), command
    pytest.fail(f"{name} fits nothing: {refused}")


def _place(command):
    return command[0].partition("=")[0].rpartition("@")[2] + "."


def _own_settings(file):
    own = yaml.safe_load(file.read_text()) or {}
    own.pop("defaults", None)
    elsewhere = lambda value: isinstance(value, str) and (value == "???" or "${" in value)  # noqa: E731
    return {key: value for key, value in flattened(own).items() if not elsewhere(value)}


def test_a_key_that_nothing_reads_would_be_refused(folder):
    (folder / "buffer").mkdir(exist_ok=True)
    (folder / "buffer" / "odd.yaml").write_text("_target_: rlresearch.buffers.Uniform\ncapacity: 1000\nsize: 3\n")
    with pytest.raises(ConfigError, match="buffer.size=3: Uniform has no such setting"):
        plan(compose(["buffer=odd"], str(folder)).config)


def test_help_loads_nothing_slow_and_lists_every_group(tmp_path):
    shown = _loading("--help", tmp_path, code=0)
    for group in {each.split("/")[0] for each in OPTIONS}:
        assert f"\n{group}: " in shown.stdout
    for option in OPTIONS:
        assert option.split("/")[1] in shown.stdout
    assert "total_steps: " in shown.stdout and "python -m rlresearch" in shown.stdout
    assert shown.stderr == ""


def test_cfg_prints_the_configuration_and_runs_nothing(tmp_path):
    shown = _python("-m", "rlresearch", "--cfg", "job", "algo=td3", "seed=7", cwd=tmp_path)
    printed = yaml.safe_load(shown.stdout)
    assert shown.returncode == 0 and shown.stderr == ""
    assert printed["seed"] == 7 and printed["algo"]["_target_"].endswith("TD3")
    assert list(tmp_path.iterdir()) == []


def test_shell_completion_installs_and_answers(tmp_path):
    installed = _python("-m", "rlresearch", "--shell-completion", "install=bash", cwd=tmp_path)
    assert installed.returncode == 0 and "complete " in installed.stdout
    line = {"COMP_LINE": "rlresearch algo=", "COMP_POINT": "16"}
    answered = _python("-m", "rlresearch", "-sc", "query=bash", cwd=tmp_path, **line)
    assert answered.stdout.split() == [f"algo={Path(each).name}" for each in OPTIONS if each.startswith("algo/")]


@pytest.mark.parametrize(
    "mode, jobs",
    [(["seed=1"], 1), (["-m", "seed=1,2"], 2), (["algo=ddpg", "-m", "seed=1,2"], 2)],
    ids=["one run", "a sweep", "-m between overrides"],
)
def test_hydra_writes_nothing_outside_the_runs_folder(mode, jobs, tmp_path):
    driver = """
import sys
from rlresearch.training.run import Run
from rlresearch.cli.main import main
Run.execute = lambda self: print("trained with", self.request.config["seed"]) or 0.0
sys.exit(main())
"""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "here").mkdir()
    done = _python("-c", driver, *mode, "runs_dir=../kept", cwd=tmp_path / "here", HOME=str(home))
    assert done.returncode == 0 and done.stdout.count("trained with") == jobs and done.stderr == ""
    assert list((tmp_path / "here").iterdir()) == [] and list(home.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "here", "kept"}
