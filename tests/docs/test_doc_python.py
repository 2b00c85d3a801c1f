"""The Python in README.md and docs runs as printed, and the parts of one's own that the pages show learn."""

import ast
import sys

import numpy as np
import pytest
from conftest import few_operations, leaves, same_bits, without_xla
from support.doc_blocks import blocks, own_files

import rlresearch  # noqa: F401 (TensorFlow's stand-in)
from rlresearch import tree
from rlresearch.config.compose import compose
from rlresearch.training.experiment import plan

ITERATIONS = 40
SMALL = ["algo.learning_starts=32", "algo.batch_size=16", "env.num_envs=2", "tuned=none"]
# For each page with parts of one's own: the commands that use them.
OWN = {
    "docs/extend/network.md": [["algo=dqn", "env=cartpole", "network=residual", *SMALL]],
    "docs/extend/environment.md": [
        ["algo=dqn", "env=gym", "env.id=corridor:Corridor-v0", *SMALL],
        ["algo=dqn", "env=corridor", *SMALL],
        ["algo=dqn", "env=corridor", "runner=population", "runner.seeds=2", *SMALL],
    ],
    "docs/extend/buffer.md": [["algo=ddpg", "buffer=recent", *SMALL]],
    "docs/extend/noise.md": [["algo=td3", "noise=waves", "noise.size=0.5", *SMALL]],
}
CASES = [(page, overrides) for page, commands in OWN.items() for overrides in commands]
MINE = ["algo=mine", "network=wide", "env.num_envs=2"]
RUNNERS = ["device", "host", "population"]


@pytest.fixture
def lab(request, tmp_path, monkeypatch):
    """The folder that the page's files make, on Python's path as --config-dir puts it there."""
    yield from _lab(request.node.callspec.params["page"], tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory):
    """The same of the page about algorithms, for all its tests."""
    with pytest.MonkeyPatch.context() as patch:
        yield from _lab("docs/extend/algorithm.md", tmp_path_factory.mktemp("lab"), patch)


def _lab(page, folder, patch):
    for name, text in own_files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    own = folder / "my_lab"
    patch.syspath_prepend(own)
    yield own
    for path in own.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.slow
@pytest.mark.parametrize("page, overrides", CASES, ids=[" ".join(overrides[:3]) for _, overrides in CASES])
def test_parts_of_ones_own_learn(page, overrides, lab):
    made = plan(compose(overrides, str(lab)).config)
    with without_xla():
        runner = made.runner.start(made.trainer, made.task, 0)
        before = leaves(runner.state().algo)
        runner.advance(ITERATIONS, True)
        for row in runner.metrics():
            assert all(np.isfinite(row[name]) for name in made.trainer.algo.METRICS)
        assert all(np.isfinite(leaf).all() for leaf in leaves(runner.state().algo))
        assert not same_bits(before, leaves(runner.state().algo))
        runner.close()


@pytest.mark.parametrize("page", ["docs/extend/buffer.md"])
def test_the_buffer_draws_the_newest_rows_alone(page, lab):
    import tensorflow as tf
    from recent import Recent

    from rlresearch import rng
    from rlresearch.types import Transition

    row = Transition(*(tf.constant(0.0) for _ in range(3)), tf.constant(False), tf.constant(False), tf.constant(0.0))
    buffer, drawn = Recent(capacity=10, window=4), set()
    state = buffer.init(row, 1)
    for count in range(1, 14):
        one = tf.nest.map_structure(lambda leaf: leaf[None], row._replace(reward=tf.constant(float(count))))
        state = buffer.add(state, one)
        batch = buffer.sample(state, rng.key(count), 200, 0.9, _progress())
        drawn = set(batch.reward.numpy())
        assert drawn == set(range(max(1, count - 3), count + 1))


@pytest.mark.parametrize("page", ["docs/extend/network.md"])
def test_the_network_has_what_the_command_asks_for(page, lab):
    made = plan(compose(["algo=dqn", "env=cartpole", "network=residual", "network.q.units=12"], str(lab)).config)
    net = made.trainer.algo.q_net
    assert net.model.count_params() == (4 * 12 + 12) + (12 * 12 + 12) + (12 * 2 + 2)


@pytest.mark.parametrize("page", ["docs/extend/noise.md"])
def test_the_noise_is_a_wave_that_begins_anew(page, lab):
    import tensorflow as tf
    from waves import Waves

    from rlresearch import rng

    noise, first, going = Waves(size=0.5, period=8.0), tf.constant([True, True]), tf.constant([False, False])
    begun, phase = noise.sample(noise.init(2, 3), first, rng.key(0), _progress())
    assert begun.shape == (2, 3) and np.abs(begun).max() <= 0.5 and len(np.unique(begun)) == 6
    for step in range(8):
        value, phase = noise.sample(phase, going, rng.key(step), _progress())
    np.testing.assert_allclose(value, begun, atol=1e-5)  # one period later
    fresh, _ = noise.sample(phase, first, rng.key(9), _progress())
    assert not np.allclose(fresh, begun)


@pytest.mark.parametrize("page", ["docs/extend/environment.md"])
def test_the_compiled_corridor_is_gymnasiums(page, lab):
    import tensorflow as tf

    from rlresearch import rng
    from rlresearch.envs.task import Task

    compiled = plan(compose(["algo=dqn", "env=corridor"], str(lab)).config).task
    ours, theirs = compiled.physics, Task(compiled.id).make()
    for actions in ([1, 1, 1], [0, 0, 0], [1, 0, 1, 1, 1], [0, 1, 0, 0, 0]):
        state, (seen, _) = ours.reset(rng.key(0)), theirs.reset(seed=0)
        for action in actions:
            assert np.array_equal(ours.observe(state).numpy(), seen)
            state, reward, ended = ours.step(state, tf.constant(action), rng.key(1))
            seen, their_reward, their_end, _, _ = theirs.step(action)
            assert (float(reward), bool(ended)) == (their_reward, their_end)
        assert ended


@pytest.fixture(scope="module", params=RUNNERS)
def trained(request, own_lab):
    """(weights before, runner after some updates) of the algorithm that the page shows."""
    seeds = ["runner.seeds=2", "runner.values={algo.sigma:[0.1,0.2]}"] if request.param == "population" else []
    small = ["+algo.learning_starts=32", "+algo.batch_size=16", f"runner={request.param}", *seeds]
    made = plan(compose([*MINE, *small], str(own_lab)).config)
    with without_xla(), few_operations():
        runner = made.runner.start(made.trainer, made.task, 0)
        before = runner.state().algo[0]
        runner.advance(ITERATIONS, True)
        yield before, runner
    runner.close()


def test_the_own_algorithm_is_short():
    files = own_files("docs/extend/algorithm.md")
    code = [line for text in files.values() for line in text.splitlines() if line.strip()]
    assert len(files) == 3 and len(code) <= 60


def test_the_own_algorithm_learns_under_every_runner(trained):
    before, runner = trained
    for row in runner.metrics():
        assert np.isfinite(row["loss/critic"])
    after = runner.state().algo[0]
    assert all(np.isfinite(leaf).all() for leaf in leaves(after)) and not same_bits(before, after)
    actions = runner.policy(np.zeros((len(runner.members), 3, 3), np.float32))
    assert actions.shape == (len(runner.members), 3, 1) and np.abs(actions).max() <= 1.0


def test_members_are_what_they_would_be_alone_until_they_learn(own_lab):
    alone = plan(compose([*MINE, "algo.sigma=0.2", "seed=1", "runner=device"], str(own_lab)).config)
    values = ["runner=population", "runner.seeds=2", "runner.values={algo.sigma:[0.1,0.2]}"]
    both = plan(compose([*MINE, *values], str(own_lab)).config)
    with without_xla():
        one, two = (made.runner.start(made.trainer, made.task, seed) for made, seed in ((alone, 1), (both, 0)))
        assert same_bits(one.state().algo, tree.member(two.state().algo, 1))


def test_the_readme_shows_the_same_algorithm():
    """Its excerpt: the fields, and the functions with their arguments, are those of the whole file."""
    (excerpt,) = [block.text for block in blocks("python") if block.page == "README.md"]
    whole = own_files("docs/extend/algorithm.md")["my_lab/mine.py"]
    (shown,), full = _classes(excerpt), _classes(whole)[0]
    assert shown.name == full.name
    known = {ast.unparse(each) for each in full.body if isinstance(each, ast.AnnAssign)}
    assert {ast.unparse(each) for each in shown.body if isinstance(each, ast.AnnAssign)} <= known
    signatures = {each.name: ast.unparse(each.args) for each in full.body if isinstance(each, ast.FunctionDef)}
    for each in (each for each in shown.body if isinstance(each, ast.FunctionDef)):
        assert signatures[each.name] == ast.unparse(each.args)


def test_the_default_run_in_python_is_the_default_run():
    """Its last three lines train for 20,000 steps: the slow test runs those too."""
    names = _run(_default_run().partition("runner = ")[0])
    made = plan(compose([]).config)
    assert names["algo"] == made.trainer.algo
    assert names["task"].physics == made.task.physics and names["task"].id == made.task.id
    assert f"Uniform({made.trainer.buffer.capacity:_})" in _default_run()
    assert f"total_steps={made.settings.total_steps:_}" in _default_run()


@pytest.mark.slow
def test_the_default_run_in_python_learns(capsys):
    _run(_default_run())
    assert float(capsys.readouterr().out) > -250.0


def test_every_block_of_python_is_looked_at():
    """By a test above: those that are no file of one's own are the README's excerpt and the default run."""
    others = [block.page for block in blocks("python") if block.text not in own_files(block.page).values()]
    assert others == ["README.md", "docs/reference/python/training.md"]
    pages = {block.page for block in blocks("python") if block.page not in others}
    assert pages == {*OWN, "docs/extend/algorithm.md"}


def _default_run() -> str:
    (text,) = [block.text for block in blocks("python") if block.page == "docs/reference/python/training.md"]
    return text


def _classes(text: str) -> list[ast.ClassDef]:
    return [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]


def _run(text: str) -> dict:
    names = {"__name__": "page"}
    exec(compile(text, "page", "exec"), names)
    return names


def _progress():
    import tensorflow as tf

    from rlresearch.types import Progress

    return Progress(tf.constant(0, tf.int64), tf.constant(0.0), tf.constant(0, tf.int64))
