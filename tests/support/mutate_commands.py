"""Commands made wrong, or otherwise right, by a seeded generator from every shipped option.

A wrong one is wrong by construction: its key is no field of the component, its value does not fit the field's declared
type and range, its option is no file, its YAML is no settings. A right one keeps within what the fields declare.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import string
from collections.abc import Iterator, Mapping

from support.shipped_options import CONTINUOUS, DISCRETE, HOMES, NEEDED, OPTIONS, TABULAR, VALUES, Base, fits

from rlresearch.config.compose import CONFIG_FOLDER

LOOK_ALIKE = dict(zip("aceiopsxyABEHKMT", "асеіорѕхуАВЕНКМТ", strict=True))  # Cyrillic
GREEK = dict(zip("avoni", "αυοηι", strict=True))


@dataclasses.dataclass(frozen=True)
class Case:
    """argv: of the command; kind: what was done to it; about: what the answer must name; files: of its FOLDER."""

    argv: list[str]
    kind: str
    about: tuple[str, ...] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


def wrong(seed: int = 0) -> Iterator[Case]:
    """Wrong commands without end: kinds take turns, and each draws an option, a key and a value of its own."""
    draw = random.Random(seed)
    kinds = [_misspelt_key, _wrong_value, _misspelt_option, _reference, _look_alike, _own_yaml, _misfit, _malformed]
    kinds += [_misspelt_key, _wrong_value, _prefix, _nested, _swept, _member_values, _hydras_own]
    seen, order = set(), itertools.cycle(draw.sample(OPTIONS, len(OPTIONS)))
    for kind in itertools.cycle(kinds):
        case = kind(draw, Base.of(next(order)))
        if case is not None and (mark := (*case.argv, *case.files.values())) not in seen:
            seen.add(mark)
            yield case


def _misspelt(draw: random.Random, word: str) -> str:
    place = draw.randrange(len(word))
    letter = draw.choice(string.ascii_lowercase)
    return draw.choice(
        [
            word[:place] + word[place + 1 :],
            word[:place] + letter + word[place:],
            word[:place] + letter + word[place + 1 :],
            word[:place] + word[place : place + 2][::-1] + word[place + 2 :],
            word + draw.choice(["s", "_", "2", "x"]),
            word.upper(),
            word.replace("_", "-") if "_" in word else f"{word}_{letter}",
        ]
    )


def _misspelt_key(draw: random.Random, base: Base) -> Case | None:
    *path, last = draw.choice(list(base.types)).split(".")
    where = draw.randrange(len(path) + 1) if path else 0
    names = [*path, last]
    new = _misspelt(draw, names[where])
    if not new or not new.isidentifier() or new in base.names(".".join(names[:where])):
        return None
    names[where] = new
    key, sign = ".".join(names), draw.choice(["", "", "+", "++", "~"])
    if where < len(path) and sign in ("+", "++"):
        return Case([*base.argv, f"{sign}{key}=1"], "key", (new,))
    return Case([*base.argv, f"~{key}" if sign == "~" else f"{sign}{key}=1"], "key", (key,))


def _wrong_value(draw: random.Random, base: Base) -> Case | None:
    key = draw.choice(list(base.types))
    text = draw.choice([text for text, value in VALUES.items() if not fits(value, base.types[key])])
    if VALUES[text] == {}:
        return None
    sign = draw.choice(["", "", "++"])
    return Case([*base.argv, f"{sign}{key}={text}"], "value", (key,))


def _misspelt_option(draw: random.Random, base: Base) -> Case | None:
    group, name = base.option.split("/")
    place = "schedule@optimizer.schedule" if group == "schedule" else group
    new = draw.choice([_misspelt(draw, name), "null" if group not in ("experiment", "tuned") else "x", f"{name}.yaml"])
    new = draw.choice([new, f"{name}/", f"../{group}/{name}", f"[{name}]", f"/etc/{name}", f"{{a:{name}}}"])
    several = new[:1] == "[" and group in ("experiment", "logger")
    if new in ("", name) or f"{group}/{new}" in OPTIONS or several:
        return None
    return Case([f"{place}={new}"], "option", (place,))


def _reference(draw: random.Random, base: Base) -> Case:
    key, other = draw.sample(list(base.types), 2)
    chosen = draw.choice(
        [
            [f"{key}=${{{key}}}"],
            [f"{key}=${{{other}}}", f"{other}=${{{key}}}"],
            [f"{key}=${{{_misspelt(draw, 'total_steps')}x}}"],
            [f"{key}=${{no_such:1}}"],
            [f"{key}=${{oc.env:NO_SUCH_VARIABLE_{draw.randrange(99)}}}"],
            [f"{key}=${{oc.nothing:a}}"],
            [f"{key}=${{..nowhere{draw.randrange(99)}}}"],
            [f"{key}=${{"],
            [f"{key}=${{{key}.below}}"],
            [f"{key}=${{hydra:nothing}}"],
        ]
    )
    return Case([*base.argv, *chosen], "reference", (key,))


def _look_alike(draw: random.Random, base: Base) -> Case | None:
    group, option = base.option.split("/")
    key, value = draw.choice([(draw.choice(list(base.types)), "1"), (group, option)])
    changed = draw.choice(["key", "key", "value"]) if value != "1" else "key"
    text = key if changed == "key" else value
    table = draw.choice([LOOK_ALIKE, GREEK, {c: chr(ord(c) + 0xFEE0) for c in string.ascii_letters}])
    places = [at for at, letter in enumerate(text) if letter in table]
    if not places or group == "schedule":
        return None
    at_ = draw.choice(places)
    new = text[:at_] + draw.choice([table[text[at_]], text[at_] + "\u200b", text[at_] + "\u0301"]) + text[at_ + 1 :]
    command = f"{new}={value}" if changed == "key" else f"{key}={new}"
    return Case([*base.argv, command], "look-alike", ())


def _misfit(draw: random.Random, base: Base) -> Case:
    """Parts that do not go together."""
    continuous, discrete = draw.choice(["ddpg", "td3", "sac"]), draw.choice(["dqn", "qr_dqn", "discrete_sac"])
    tables, env, box = draw.choice(TABULAR), draw.choice(DISCRETE), draw.choice(CONTINUOUS)
    seed = f"seed={draw.randrange(1000)}"
    return Case(
        [
            *draw.choice(
                [
                    ([f"algo={continuous}", f"env={env}"]),
                    ([f"algo={discrete}", f"env={box}"]),
                    ([f"algo={tables}", f"env={draw.choice([env, box])}"]),
                    ([f"algo={continuous}", "buffer=rollout", "tuned=none"]),
                    ([f"algo={draw.choice(['ppo', 'a2c'])}", f"buffer={draw.choice(['uniform', 'prioritized'])}"]),
                    ([f"algo={discrete}", f"env={env}", "tuned=none", f"noise={draw.choice(['ou', 'gaussian'])}"]),
                    ([f"algo={continuous}", f"network={draw.choice(['q', 'dueling', 'noisy', 'none'])}", "tuned=none"]),
                    ([f"algo={tables}", "env=frozen_lake", f"network={draw.choice(['q', 'actor_critic'])}"]),
                    (["env=gym", "env.id=MountainCarContinuous-v0", f"runner={draw.choice(['device', 'population'])}"]),
                    (["algo=ppo", f"noise={draw.choice(['ou', 'gaussian', 'epsilon_greedy', 'boltzmann'])}"]),
                    ([f"buffer.capacity={draw.randrange(1, 100)}"]),
                    ([f"algo.learning_starts={draw.randrange(20_000, 10**9)}", "total_steps=20000"]),
                    (["algo=ppo", "tuned=none", f"total_steps={draw.randrange(1, 2000)}"]),
                    (["algo=c51", "env=cartpole", "tuned=none"]),
                    (["algo=ppo", "tuned=none", f"algo.minibatches={draw.choice([3, 5, 7, 11, 4096])}"]),
                ]
            ),
            seed,
        ],
        "misfit",
    )


def _malformed(draw: random.Random, base: Base) -> Case:
    key = draw.choice(list(base.types))
    group = base.option.split("/")[0]
    word = draw.choice(
        [f"={key}", key, f"{key}==1", f"{key}:1", f"-{key}=1", f"--{key}=1", f"{key} = 1", f"{key}= 1 2,", f"{key}=[1"]
        + [f"{key}={{a", f"{key}='x", f"{key}=)", f"{key}=1]", f"{key}.=1", f".{key}=1", f"{key}..x=1", f"[{key}]=1"]
        + [
            f"{group}@=x",
            f"@{key}=1",
            f"~{key}~",
            f"+++{key}=1",
            f"+~{key}=1",
            f"{key}=f(",
            f"{key}=\x00",
            f"{key}=\n,",
        ]
        + [f"{key}=choice()", f"{key}=range(1,2,3,4)", f"{key}=sort(", f"{key}=int(x)", f"{key}=no_such_function(3)"]
        + [f"{key}=!!python/object/apply:os.system", f"{key}=!!binary x,", f"{key}=&a *a", f"{key}=<<: 1", f"{key}=|,"]
        + [f"{group}/{key}=1", "--config-path=/etc", "--config-name=x", f"--{draw.choice(['hepl', 'multi', 'resum'])}"]
        + [f"--cfg=hydra --info {key}", f"--package={key}", "--cfg=job --run", "-c nope", "--experimental-rerun=x"]
    )
    return Case([*base.argv, *([word] if " " in word and "=" in word else word.split(" "))], "spelling")


def _prefix(draw: random.Random, base: Base) -> Case:
    group, option = base.option.split("/")
    place = "schedule@optimizer.schedule" if group == "schedule" else group
    key = draw.choice([key for key in base.types if base.value(key) is not None])  # a null may be added to
    choice = draw.choice([f"+{place}={option}", f"++{place}={option}", f"~{key}=no_such_value_{draw.randrange(99)}"])
    choice = draw.choice([choice, f"+{key}=1", f"~{place}/x", f"+{place}/x={option}", f"~{key}.x", f"{key}.x=1"])
    return Case([*base.argv, choice], "prefix", (key if key in choice else place,))


def _nested(draw: random.Random, base: Base) -> Case:
    key, deep = draw.choice(list(base.types)), draw.choice([40, 300, 3_000])
    word = draw.choice(
        [f"{key}={'[' * deep}{']' * deep}", f"{key}={'{a:' * deep}1{'}' * deep}", f"{key}{'.x' * deep}=1"]
        + [f"+{key}{'.x' * deep}=1", f"{key}={'[' * deep}", f"{'a.' * deep}b=1", f"{key}={'x' * 30 * deep}\u0301[,"]
        + [f"{key}={'${' * deep}a{'}' * deep}", f"{key}={'9' * 10 * deep}.5x", f"{key}=[{','.join('x' * deep)}]"]
        + [f"{key}={'-' * deep}1", f"{key}={'(' * deep}", f"{key}={'1e' + '9' * deep}", f"{key}={chr(92) * deep},"]
    )
    return Case([*base.argv, word], "nested")


def _swept(draw: random.Random, base: Base) -> Case | None:
    key = draw.choice(list(base.types))
    bad = [text for text, value in VALUES.items() if not fits(value, base.types[key]) and text.isalnum()]
    if not bad:
        return None
    value = draw.choice(bad)
    word, about = draw.choice(
        [
            ([f"{key}={value},{value}"], key),
            (["-m", f"{key}={value},{value}x,[{value}]"], key),
            (["-m", f"{key}=choice({value},{{a:1}})"], key),
            (["-m", f"{key}=interval(0,1)"], key),
            (["-m", f"{key}=range(5,5)"], key),
            (["-m", f"{key}=glob(*)"], key),
            (["-m", f"seed=0,1,{draw.choice(['x', '-1', '0.5', 'null'])}"], "seed"),
            (["-m", f"{_misspelt(draw, 'algo')}_=ddpg,td3"], "_=ddpg"),
            (["-m", f"{base.option.partition('/')[0]}={_misspelt(draw, 'none')}_,x"], "_"),
        ]
    )
    return Case([*base.argv, *word], "sweep", (about,))


def _member_values(draw: random.Random, base: Base) -> Case:
    values = draw.choice(
        [
            "3",
            "[1]",
            "{}x",
            "{algo.gamma:[0.9]}",
            "{algo.gamma:0.9}",
            "{algo.gamma:[0.9,1.5]}",
            "{algo.gamma:[0.9,nan]}",
        ]
        + ["{algo.gamma:[0.9,x]}", "{algo.gamma:{x:[1,2]}}", "{algo.gama:[0.9,0.8]}", "{seed:[1,2]}", "{env:[1,2]}"]
        + [
            "{algo:[ddpg,td3]}",
            "{algo.batch_size:[8,16]}",
            "{network.actor.hidden:[[8],[16]]}",
            "{'':[1,2]}",
            "{a.:[1,2]}",
        ]
        + ["{algo._target_:[a.B,a.C]}", "{optimizer.lr:[0,1]}", "{optimizer.lr:[null,1]}", "{algo.gamma:[[0.9],[0.8]]}"]
    )
    command = ["runner=population", "runner.seeds=2", f"runner.values={values}", f"seed={draw.randrange(10**6)}"]
    return Case(command, "members")


def _hydras_own(draw: random.Random, base: Base) -> Case:
    word = draw.choice(
        ["hydra.run.dir=/proc/nope", "hydra.run.dir=${nope}", "hydra.job.name=null", "hydra.mode=x", "+hydra.x=1"]
        + ["hydra.job.chdir=maybe", "hydra=x", "hydra.x=1", "~hydra", "~hydra.run", "hydra.searchpath=x"]
        + ["hydra.searchpath=[file:///nope]", "hydra.searchpath=[pkg://nope]", "hydra.job_logging=3", "hydra.run=3"]
        + ["hydra.callbacks.a._target_=os.system", "+hydra.callbacks.a._target_=os.system", "hydra.launcher=3 -m"]
        + [
            "hydra.launcher._target_=os.system -m",
            "hydra.sweeper._target_=os.system -m",
            "hydra.sweep.dir=/proc/nope -m",
        ]
        + ["hydra.sweeper.max_batch_size=x -m", "hydra.sweep.dir=${nope} -m", "hydra/launcher=nope", "hydra/nope=x"]
        + [
            "hydra.job.env_set=3",
            "+hydra.job.env_set.X=[1]",
            "hydra.verbos=1",
            "hydra.run.dir=3.x${",
            "hydra.run.dir=null",
        ]
    )
    return Case([*base.argv, *word.split(), f"seed={draw.randrange(10**6)}"], "hydra", ("hydra",))


def _own_yaml(draw: random.Random, base: Base) -> Case:
    """An option in a folder of one's own, spoilt."""
    group, name = base.option.split("/")
    place = "schedule@optimizer.schedule" if group == "schedule" else group
    text = (CONFIG_FOLDER / f"{base.option}.yaml").read_text()
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh")
    )
    deep = draw.choice([200, 5_000])
    spoilt = draw.choice(
        [
            bomb,
            text + bomb,
            f"a: {'[' * deep}{']' * deep}\n",
            f"{'{a: ' * deep}1{'}' * deep}\n",
            f"a: {'x' * 3_000_000}\n",
        ]
        + [f"a: !!python/object/apply:os.system [{draw.randrange(9)}]\n", "a: !!python/name:os.system\n", "- 1\n- 2\n"]
        + ["just text\n", "3\n", "a: b: c\n", "\ta: 1\n", "a: 'x\n", "a: [1\n", "a: *nowhere\n", "a: !unknown 1\n"]
        + [
            f"{text}\nno_such_setting_{draw.randrange(99)}: 1\n",
            "defaults: 3\n",
            "defaults: [no/such]\n",
            "a: &a [*a]\n",
        ]
        + ["- 1\n", "defaults: [mine]\n", "defaults: [{a: b, c: d}]\n"]
        + [
            "defaults: [{override /algo: no_such}]\n",
            "defaults: [{/no: such}]\n",
            "\x00\x01\x02",
            "a: \x07\n",
            "? [1]\n: 2\n",
        ]
        + [
            "1: 2\n",
            "null: 1\n",
            "true: 1\n",
            "a: 1\na: 2\n",
            "a: ${b}\nb: ${a}\n",
            "_target_: os.system\n",
            "_target_: 3\n",
        ]
        + [
            "_target_: rlresearch.nothing.Here\n",
            "_target_: [a]\n",
            "_target_: ''\n",
            "# @package nowhere\na: 1\n",
            "a: ???\n",
        ]
        + [
            "a: 2026-11-21\n",
            "a: !!set {x}\n",
            "a: !!binary eA==\n",
            "--- 1\n--- 2\n",
            "%YAML 9.9\n---\na: 1\n",
            "&a a: *a\n",
        ]
    )
    files = {f"{group}/mine.yaml": spoilt}
    return Case(["--config-dir=FOLDER", *base.argv, f"{place}=mine"], "own YAML", (), files)


def right(seed: int = 0) -> Iterator[Case]:
    """Right commands without end, each unlike the one before."""
    draw, seen = random.Random(seed), set()
    while True:
        argv = draw.choice([_combination, _other_value])(draw)
        if argv is not None and tuple(argv) not in seen:
            seen.add(tuple(argv))
            yield Case(argv, "right")


def _combination(draw: random.Random) -> list[str]:
    """An algorithm in an environment that it fits, with parts that fit it."""
    algo = draw.choice(sorted(HOMES))
    env = draw.choice(HOMES[algo])
    argv = [f"algo={algo}", f"env={env}", *NEEDED.get(algo, [])]
    if draw.random() < 0.3:  # what is tuned for the pair goes with the parts that it was tuned with
        return [*argv, f"logger={draw.choice(['offline', 'quiet'])}", f"seed={draw.randrange(2**63)}"]
    argv += ["tuned=none"]
    argv += [f"optimizer={draw.choice(['adam', 'adamw', 'sgd', 'rmsprop'])}"] if algo not in TABULAR else []
    argv += [f"schedule@optimizer.schedule={draw.choice(['constant', 'linear', 'exponential', 'piecewise'])}"]
    argv += [f"normalize={draw.choice(['none', 'running'])}"] if algo not in TABULAR else []
    argv += [f"eval={draw.choice(['default', 'final'])}", f"checkpoint={draw.choice(['default', 'none'])}"]
    argv += draw.choice(
        [[], ["runner=host"], ["runner=device"], ["runner=population", f"runner.seeds={draw.randint(1, 9)}"]]
    )
    if algo in ("ddpg", "td3"):
        argv += [f"noise={draw.choice(['none', 'gaussian', 'ou'])}"]
    if algo in ("dqn", "qr_dqn", "c51"):
        argv += [f"noise={draw.choice(['epsilon_greedy', 'greedy'])}"]
    if algo in ("ddpg", "td3", "sac", "dqn", "c51", "qr_dqn", "discrete_sac"):
        argv += [f"buffer={draw.choice(['uniform', 'prioritized'])}", f"buffer.n_step={draw.randint(1, 5)}"]
    return [*argv, f"seed={draw.randrange(2**63)}"]


# What must also fit to another setting is left as it is.
_BOUND = """
minibatches capacity batch_size learning_starts total_steps v_min v_max rollout_steps boundaries factors
dueling noisy id hidden values num_envs resume init_from device runs_dir packages rule by activation
output_activation kernel_initializer output_initializer over kwargs map_name desc reward_schedule time_aware
flatten frame_stack layer_norm spectral_norm target_entropy momentum nesterov learn_temperature
max_episode_steps
""".split()


def _other_value(draw: random.Random) -> list[str] | None:
    base = Base.of(draw.choice(OPTIONS))
    keys = [key for key in base.types if key.rpartition(".")[2] not in _BOUND and not key.startswith("trial")]
    chosen = draw.sample(keys, min(len(keys), draw.randint(1, 4)))
    argv = list(base.argv)
    for key in chosen:
        fitting = [text for text, value in VALUES.items() if fits(value, base.types[key]) and "2" not in text]
        if fitting:
            argv.append(f"{draw.choice(['', '++'])}{key}={draw.choice(fitting)}")
    return argv if len(argv) > len(base.argv) else None
