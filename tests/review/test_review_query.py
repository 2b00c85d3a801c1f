"""Which runs are meant by a word: filters, numbers, parts of names."""

from datetime import UTC, datetime, timedelta

import pytest
from support.make_runs import make_run

from rlresearch.errors import ConfigError
from rlresearch.review.runs import groups, keys, query
from rlresearch.review.runs.index import Index
from rlresearch.storage import run_directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("query")
    now = datetime.now(UTC)
    for at, (algo, env, lr, status, final) in enumerate(
        [
            ("ddpg", "pendulum", 0.001, "finished", -150.0),
            ("ddpg", "pendulum", 0.0003, "finished", -250.0),
            ("td3", "pendulum", 0.001, "finished", -140.0),
            ("dqn", "cartpole", 0.001, "failed", 90.0),
        ]
    ):
        started = (now - timedelta(hours=3 * at)).isoformat()
        settings = {"optimizer.lr": lr, "algo.double": algo == "dqn", "left.wide": 1, "right.wide": 1}
        make_run(root / "runs", algo, env, at, status, final=final, started_at=started, settings=settings)
    return root


@pytest.fixture
def index(folder):
    with Index(folder / "runs", folder=folder / "cache") as opened:
        yield opened


@pytest.mark.parametrize(
    ("word", "seeds"),
    [
        ("algo=ddpg", {0, 1}),
        ("algo=ddpg,td3", {0, 1, 2}),
        ("algo!=ddpg", {2, 3}),
        ("final>-200", {0, 2, 3}),
        ("final>=-150", {0, 2, 3}),
        ("final<-150", {1}),
        ("optimizer.lr=1e-3", {0, 2, 3}),
        ("lr<0.001", {1}),
        ("status=failed", {3}),
        ("algo.double=true", {3}),
        ("algo.double=1", set()),
        ("name~_d(dpg|qn)_", {0, 1, 3}),
        ("name~.", {0, 1, 2, 3}),
        ("reason.error~SENSOR", {3}),
        ("reason.kind=null", {0, 1, 2}),
        ("reason.kind!=null", {3}),
        ("network.actor.hidden=[64,64]", {0, 1, 2, 3}),
        ("steps>=1,000", set()),
        ("started_at<2000", set()),
        ("final>text", set()),
        ("loss/critic<0.2", {0, 1, 2, 3}),
    ],
)
def test_a_filter_keeps_what_it_says(index, word, seeds):
    assert {run.values["seed"] for run in query.choose(index, [word]).runs} == seeds


def test_filters_are_joined_by_and_and_names_by_or(index):
    first, second, *_ = index.runs()
    assert query.choose(index, ["algo=ddpg", "lr<0.001"]).runs == [second]
    assert query.choose(index, [first.name, second.name]).runs == [first, second]
    assert query.choose(index, [first.name, second.name, "lr<0.001"]).runs == [second]


def test_since_and_status_leave_out(index):
    assert [run.values["seed"] for run in query.choose(index, [], since="4h").runs] == [0, 1]
    assert [run.values["seed"] for run in query.choose(index, [], since="2000-01-01").runs] == [0, 1, 2, 3]
    assert [run.values["seed"] for run in query.choose(index, [], status="failed,killed").runs] == [3]


def test_a_run_is_named_by_beginning_part_path_number_or_latest(index, monkeypatch):
    runs = index.runs()
    run = runs[2]
    index.remember(runs[1:])
    words = [run.name, run.name[:-3], run.name[-6:], "_td3_pendulum_s2", run.key, str(run.path), "2", "algo=td3"]
    for word in words:
        assert query.one(index, runs, word) == run, word
    assert query.one(index, runs, "latest") == runs[0]
    monkeypatch.chdir(run.path.parent)
    assert query.one(index, runs, f"./{run.name}") == run


def test_a_number_stays_with_its_run_when_newer_ones_come(tmp_path):
    old = make_run(tmp_path / "runs", started_at="2026-01-01T00:00:00Z")
    with Index(tmp_path / "runs", folder=tmp_path / "cache") as index:
        index.remember(index.runs())
    make_run(tmp_path / "runs", seed=1)
    with Index(tmp_path / "runs", folder=tmp_path / "cache") as index:
        assert query.one(index, index.runs(), "1").path == old


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fnal>2"], "did you mean 'final'"),
        (["algo.gama=1"], "did you mean 'algo.gamma'"),
        (["name~("], "is not a pattern"),
        (["nobody"], "there is no such run"),
        (["ddpg"], "2 runs are meant"),
        (["9999"], "9999: the last listing had "),
        (["wide=1"], "2 such keys: left.wide, right.wide"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_wrong_word_is_answered_with_the_nearest_right_one(index, words, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        query.choose(index, words)


@pytest.mark.parametrize("when", ["yesterday", "2", "h", "-1h", ""])
def test_a_wrong_time_is_refused(when):
    with pytest.raises(ConfigError, match="30m"):
        query.parse_moment(when)


def test_sorting_puts_what_has_no_value_last(index):
    runs = index.runs()
    by = lambda key: [run.values["seed"] for run in query.sort(runs, key)]  # noqa: E731
    assert by("final") == [1, 0, 2, 3] and by("-final") == [3, 2, 0, 1]
    assert by("reason.kind")[0] == 3 and by("-reason.kind")[0] == 3
    assert by(None) == [0, 1, 2, 3]


def test_groups_are_made_by_what_differs_but_the_seed(index):
    made = groups.group(index.runs())
    assert [(each.label, len(each.runs)) for each in made.groups] == [
        ("ddpg pendulum lr=0.0003", 1),
        ("ddpg pendulum lr=0.001", 1),
        ("td3 pendulum", 1),
    ]
    assert made.notes == ["left out: 1 failed (--all takes them in)"]
    assert len(groups.group(index.runs(), unfinished=True).groups) == 4


def test_a_group_by_fewer_keys_says_what_it_mixes(index):
    made = groups.group(index.runs(), by="algo")
    assert [each.label for each in made.groups] == ["ddpg", "td3"]
    assert "ddpg: mixes runs that differ in optimizer.lr" in made.notes


def test_a_seed_counts_once_in_a_group_and_its_newest_run(tmp_path):
    old = make_run(tmp_path, seed=4, started_at="2026-01-01T00:00:00Z")
    new = make_run(tmp_path, seed=4, started_at="2026-01-02T00:00:00Z")
    with Index(tmp_path, cache=False) as index:
        made = groups.group(index.runs())
    assert [run.path for run in made.groups[0].runs] == [new] and old
    assert "1 older run of a seed" in made.notes[0]


@pytest.mark.parametrize("field", sorted(set(run_directory.FIELDS) - {"algo", "env", "total_steps"}))
def test_what_a_run_writes_of_itself_makes_no_group(field):
    """Else fifteen jobs of a sweep would be fifteen groups of one seed."""
    assert not keys.is_choice(field) and not keys.is_choice(f"{field}.job")


@pytest.mark.parametrize(
    ("key", "about", "choice"),
    [
        ("optimizer.lr", "configuration", True),
        ("algo", "configuration", True),
        ("seed", "configuration", False),
        ("logger.every_steps", "configuration", False),
        ("packages.numpy", "code", False),
        ("git.commit", "code", False),
        ("host", "machine", False),
        ("final_evaluation.mean", "result", False),
        ("loss/critic", "metrics", False),
    ],
)
def test_keys_know_what_they_are_about(key, about, choice):
    assert (keys.about(key), keys.is_choice(key)) == (about, choice)
