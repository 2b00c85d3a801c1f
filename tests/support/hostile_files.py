"""Run directories that somebody made to do harm, or that a disk has made something else of: what `attacked` gives."""

from __future__ import annotations

import itertools
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.corrupt_files import (
    NAME,
    both,
    content,
    folder,
    linked,
    linked_new,
    manifest,
    pipe,
    record,
    rows,
    setting,
    state,
    tensors,
)


class HostileCase(NamedTuple):
    """spoil(run, outside) makes it of a good run; `outside` is a folder that nobody may touch. commands: that must be
    tried, all if empty; refused: that must not get as far as TensorFlow.
    """

    name: str
    spoil: Callable[[Path, Path], None]
    commands: Sequence[str] = ()
    refused: Sequence[str] = ()


class _Payload:
    def __reduce__(self) -> tuple:
        return os.system, ("touch OUTSIDE/ran; touch ran",)


PICKLES = [pickle.dumps(_Payload(), protocol=protocol) for protocol in (0, 2, 4)]
EVIL = """
import os, dataclasses
os.system('touch OUTSIDE/ran')
@dataclasses.dataclass(frozen=True)
class Evil:
    x: int = 0
"""
DEEP, BIG = 100_000, 8_000_000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghij")
)
JSON_BYTES = {
    "empty": b"",
    "NULs": bytes(1000),
    "not UTF-8": b'{"status": "\xff\xfe"}',
    "deep": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "large": b'{"status": "' + b"x" * BIG + b'"}',
    "a number of many digits": b'{"seed": 1' + b"0" * 10_000 + b"}",
    "a list": b"[1, 2]",
    "text": b'"run"',
    "bare NaN": b'{"status": "finished", "total_steps": NaN, "final_evaluation": {"mean": -Infinity}}',
    "truncated": b'{"status": "fini',
    "twice the same key": b'{"status": "finished", "status": ["running"]}',
    "lone surrogates": b'{"status": "\\ud800", "algo": "\\udfff"}',
    "escape sequences": b'{"status": "failed", "algo": "\\u001b]0;owned\\u0007\\u001b[2J", "reason": "\\u001b[31m"}',
    "pickle": PICKLES[1],
}
# Wrong types for fields of run.json.
WRONG_FIELDS: dict[str, list[Any]] = {
    "status": [3, [], {"a": 1}, None, "exploded", "running"],
    "algo": [7, ["ddpg"], "../../OUTSIDE", "x" * 10_000],
    "env": [None, {"id": "x"}, "\n\n"],
    "seed": ["zero", 1e308, [0], {"a": {}}],
    "started_at": [5, "yesterday", "9999-99-99", "0001-01-01T00:00:00+23:59", []],
    "pid": ["1", -1, 10**30, [1], "../self"],
    "host": [3, {"a": 1}],
    "final_evaluation": [3, [], {"mean": "x"}, {"mean": [1]}, {"mean": 10**400, "std": None}],
    "total_steps": ["many", -5, 10**300, [1], {"a": 1}],
    "wall_time_s": ["long", -1, [], "NaN"],
    "reason": ["text", 3, [], {"error": {"a": 1}, "kind": 3}],
    "packages": [[], "x", {"a": [1]}],
    "git": ["x", [], {"commit": {"a": 1}}],
    "choices": [[], "x", {"algo": [1]}],
    "population": [
        *("x", [], {"members": 3}, {"members": []}, {"members": ["../../outside"]}, {"members": ["bad", "../bad"]}),
        *({"members": ["bad", "."]}, {"members": ["bad", ".."]}, {"members": [3]}, {"members": ["bad"] * 1000}),
        *({"members": ["good", "bad"], "index": "x"}, {"members": ["/etc", "bad"]}, {"members": {"bad": 1}}),
    ],
    "resumes": ["x", 3, {"a": 1}],
    "command": [[1, 2], {"a": 1}],
    "overrides": [3, {"a": 1}, [["x"]]],
}

TARGETS = """
os.system posix.system subprocess.Popen subprocess.run subprocess.check_output builtins.eval builtins.exec
builtins.__import__ __builtin__.eval __main__.main importlib.import_module importlib.reload runpy.run_path
runpy.run_module pickle.loads pickle.Unpickler shelve.open marshal.loads ctypes.CDLL ctypes.cdll.LoadLibrary
pty.spawn code.interact timeit.timeit pdb.Pdb webbrowser.open socket.create_connection urllib.request.urlopen
http.client.HTTPConnection antigravity.geohash evil.Evil evil.os.system this.s rlresearch.training.run.Run
rlresearch.__main__.main rlresearch.config.instantiate.importlib.import_module rlresearch.runtime.devices.os.system
rlresearch.networks.tf.io.read_file rlresearch.evil.Evil rlresearch..networks.MLP .rlresearch.networks.MLP
rlresearch.networks.MLP. rlresearch/networks.MLP rlresearch.networks:MLP rlresearch.networks.MLP.__init__
rlresearch.networks.__class__ rlresearch.networks.__loader__.load_module RLResearch.networks.MLP
tensorflow.io.read_file tensorflow.keras.models.load_model keras.layers.Lambda keras.saving.load_model
numpy.load torch.load yaml.unsafe_load hydra.utils.instantiate hydra._internal.utils._locate gymnasium.make
omegaconf.OmegaConf.load dataclasses.make_dataclass rlresearch.sweeps.launchers.fork_server.Fork ｏs.system
ｒlresearch.networks.MLP rlresearch.networks.МLP
""".split()
ODD_TARGETS = [
    ["os.system"],
    {"a": 1},
    3,
    None,
    True,
    "",
    " ",
    "os",
    "rlresearch.networks.MLP ",
    "a" * 5000,
    "\n",
    "rlresearch.\0x",
]
PLACES = [
    "algo",
    "network.actor",
    "env.physics",
    "noise",
    "buffer",
    "optimizer",
    "optimizer.schedule",
    "normalize",
    "runner",
]
PLACES += ["noise.schedule", "network.critic"]
POLICY = ("resume", "evaluate", "export policy", "rerun")
SHOWS = ("ls", "show", "json", "diff", "compare", "report", "verify", "reproduce", "columns")

CONFIGS = {
    "reference bomb": BOMB,
    "reference to itself": "a: &a [*a]\n",
    "merge": "a: &a {x: 1}\nalgo: {<<: *a}\n",
    "python/object/apply": "algo: !!python/object/apply:os.system ['touch OUTSIDE/ran']\n",
    "python/object/new": "algo: !!python/object/new:subprocess.Popen [['touch', 'OUTSIDE/ran']]\n",
    "python/name": "algo: !!python/name:os.system\n",
    "python/module": "algo: !!python/module:evil\n",
    "python/object": "algo: !!python/object:evil.Evil {x: 1}\n",
    "unknown tag": "algo: !boom {x: 1}\n",
    "binary": "algo: !!binary gASVKAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjA10b3VjaCBSQU4=\n",
    "dates and sets": "algo: 2026-11-21\nenv: !!set {a, b}\nseed: !!omap [a: 1]\n",
    "deep lists": "a: " + "[" * DEEP,
    "deep settings": "{a: " * DEEP,
    "deep indentation": "".join(" " * i + "a:\n" for i in range(1500)),
    "large": "a: " + "x" * BIG + "\n",
    "many keys": "".join(f"k{i}: 1\n" for i in range(60_000)),
    "keys that are no text": "1: 2\n[1]: 3\nnull: 4\n",
    "a list": "- 1\n- 2\n",
    "text": "hello\n",
    "empty": "",
    "two documents": "a: 1\n---\nb: 2\n",
    "tabs": "\talgo: 1\n",
    "control characters": "a: \x01\x02\n",
    "not UTF-8": b"a: \xff\xfe\n",
    "another encoding": "algo: 1\n".encode("utf-16"),
    "pickle": PICKLES[1],
    "only one group": "algo: {_target_: rlresearch.algos.ddpg.DDPG}\n",
    "groups that are lists": "algo: [1]\nenv: [2]\nnetwork: []\n",
    "a directive": "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\na: !os.system ['touch OUTSIDE/ran']\n",
}
SETTINGS: list[tuple[str, Any]] = [
    *[(key, "${oc.env:SECRET}") for key in ("algo.gamma", "env.id", "device", "runs_dir", "algo._target_")],
    *[("env.kwargs", {"x": text}) for text in ("${oc.env:SECRET}", "${oc.decode:${oc.env:SECRET}}", "${now:%Y}")],
    *[("env.kwargs", {"_target_": "os.system", "_args_": ["touch OUTSIDE/ran"]})],
    *[
        ("env.id", each)
        for each in ("evil:Evil-v0", "os:system", "antigravity:X-v0", "../../evil:X-v0", "rlresearch:evil:X")
    ],
    *[
        ("env.id", each)
        for each in (3, None, ["Pendulum-v1"], "", "\0", "x" * 10_000, "rlresearch.x:evil:X", "file:///etc/passwd")
    ],
    *[("init_from", "OUTSIDE/run"), ("resume", "OUTSIDE/run"), ("runs_dir", "OUTSIDE"), ("packages", ["os", "evil"])],
    *[("total_steps", each) for each in (-1, 10**30, "many", None, [], 1.5)],
    *[("env.num_envs", 10**9), ("buffer.capacity", 10**15), ("network.actor.hidden", [10**9]), ("seed", -(2**70))],
    *[
        ("algo._partial_", True),
        ("algo._args_", ["x"]),
        ("algo._convert_", "all"),
        ("hydra", {"run": {"dir": "OUTSIDE"}}),
    ],
    *[("network.actor.output_initializer", "__import__('os').system('touch OUTSIDE/ran')")],
    *[
        ("network.actor.activation", "lambda x: __import__('os').system('touch OUTSIDE/ran')"),
        ("compile_cache", "OUTSIDE"),
    ],
]

HEADERS: dict[str, bytes] = {
    "no header": b"",
    "header longer than the file": tensors({}, length=2**40),
    "header of 2**63": tensors({}, length=2**63),
    "header of -1": struct.pack("<q", -1) + b"{}",
    "deep header": tensors(b"[" * DEEP),
    "header that is a list": tensors([1]),
    "header that is no JSON": tensors(b"\xff" * 100),
    "absurd shape": tensors({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}}, bytes(4)),
    "shape that overflows": tensors({"a": {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 4]}}, bytes(4)),
    "shape that wraps to 4": tensors({"a": {"dtype": "F32", "shape": [2**62, 4, 1], "data_offsets": [0, 4]}}, bytes(4)),
    "negative shape": tensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "shape of text": tensors({"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}, bytes(4)),
    "offsets beyond the end": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}, bytes(4)),
    "offsets backwards": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
    "negative offsets": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, bytes(4)),
    "overlapping": tensors(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"},
        bytes(4),
    ),
    "a hole": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "unknown type": tensors({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "half precision of another library": tensors(
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "metadata that is no text": tensors({"__metadata__": {"a": {"b": 1}}}),
    "twice the same name": tensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}',
        bytes(4),
    ),
    "many empty tensors": tensors(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    ),
    "names that lead away": tensors({"../../x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "pickle": PICKLES[0],
    "pickle in a zip": b"PK\x03\x04" + PICKLES[2],
}


def _set(path: str, value: Any) -> Callable[[dict], None]:
    def change(fields: dict) -> None:
        *names, last = [int(each) if each.isdigit() else each for each in path.split("/")]
        node: Any = fields
        for name in names:
            node = node[name]
        node[last] = value

    return change


RING = "rings/state.buffer"
MANIFESTS: list[tuple[str, Any]] = [
    *[("schema_version", each) for each in (0, 2, "1", None)],
    *[("about/step", each) for each in (-1, 10**30, "x", 1.5)],
    *[("about/members", each) for each in ("x", [None], [2**70] * 3, [])],
    *[
        ("about/position", each)
        for each in ({}, [], {"x": 1}, {"fresh": 3, "row": "x", "evaluation": 0}, {"a": {"b": 1}})
    ],
    *[
        ("about/logs", each)
        for each in ([], "x", [{"../../../outside/secret": 0}], [{"metrics": -5}], [{"metrics": 10**15}])
    ],
    *[("about/times", each) for each in ([], {"x": "y"}, {"wall_time_s": -1e300})],
    *[("about/iteration", 2**63), ("about/score", "best"), ("about/exact", "yes"), ("about/config", "x" * 100)],
    *[("state_size", each) for each in (0, -1, 10**15, 2**62)],
    *[("state_digest", each) for each in ("", "0" * 32, 3, "../" * 10 + "xx")],
    *[("tensors", each) for each in ([], {}, {"a": 3}, {"a": ["float32", [2**60]]}, {"a": ["object", [1]]})],
    *[("rings", each) for each in ([], {"x": 1}, {})],
    *[(f"{RING}/capacity", each) for each in (0, -1, 2**62)],
    *[(f"{RING}/added", each) for each in (-1, 10**12)],
    *[
        (f"{RING}/files/0/name", each)
        for each in ("../../../../outside/secret.rows", "/etc/passwd", "a/b.rows", "..rows", "x.rows")
    ],
    *[(f"{RING}/files/0/size", each) for each in (10**15, 2**62, 0)],
    *[(f"{RING}/files/0/begin", 10**9), (f"{RING}/files/0/end", 0), ("packages", []), ("saved_at", 3), ("more", 1)],
]
LINES = {
    "a pickle": PICKLES[1],
    "one endless line": b'{"step": 1, "train/return": "' + b"x" * BIG,
    "deep line": b'{"step": 1, "a": ' + b"[" * DEEP + b"\n",
    "deep line in the middle": b'{"step": 1}\n' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b'\n{"step": 2}\n',
    "many keys": b'{"step": 1, ' + b", ".join(b'"k/%d": %d' % (i, i) for i in range(50_000)) + b"}\n",
    "steps that are text": b'{"step": "x", "time": "y", "train/return": "z", "returns": ["a"], "lengths": "b"}\n' * 3,
    "steps that are lists": b'{"step": [1], "time": {}, "train/return": [1], "returns": [[1]], "lengths": [null]}\n'
    * 3,
    "no steps": b'{"time": 1}\n{"returns": [1, 2]}\n',
    "infinite": b'{"step": 1e400, "time": "Infinity", "train/return": "NaN", "returns": ["NaN"]}\n' * 3,
    "numbers of many digits": b'{"step": 1' + b"0" * 5000 + b', "returns": [1' + b"0" * 400 + b"]}\n",
    "not UTF-8": b'{"step": 1, "train/return": "\xff"}\n' * 3,
    "escape sequences": b'{"step": 1, "time": 1.0, "\\u001b]0;owned\\u0007/x": 1.0, "returns": [1.0], "lengths": [1]}\n'
    * 3,
    "rows that are no objects": b'1\n"x"\n[1]\nnull\n',
    "names like markup": b'{"step": 1, "time": 1.0, "a/</script><script>alert(1)</script>": 1.0}\n' * 3,
    "falling steps": b'{"step": 9, "returns": [1.0], "lengths": [1]}\n{"step": -1, "returns": [1.0], "lengths": []}\n',
}


def _cases() -> list[HostileCase]:
    made: list[HostileCase] = []
    add = lambda name, spoil, commands=(), refused=(): made.append(HostileCase(name, spoil, commands, refused))  # noqa: E731
    for name, raw in JSON_BYTES.items():
        add(f"run.json: {name}", content("run.json", raw))
    for name, values in WRONG_FIELDS.items():
        for value in values:
            add(
                f"run.json: {name} is {str(value)[:40]}",
                record(**{name: value}),
                ("resume", "evaluate", *SHOWS, "tail"),
            )
    for name, text in CONFIGS.items():
        add(f"config.yaml: {name}", content("config.yaml", text), (*POLICY, *SHOWS), POLICY)
    for at, target in enumerate(TARGETS + ODD_TARGETS):
        spoil = setting(f"{PLACES[at % len(PLACES)]}._target_", target)
        add(f"_target_ {str(target)[:60]!r}", both(content("evil.py", EVIL), spoil), (*POLICY, "show"), POLICY)
    for key, value in SETTINGS:
        may = key in ("runs_dir", "packages", "resume", "hydra", "total_steps", "init_from") or value in (
            [10**9],
            10**15,
            10**9,
        )
        spoil = both(content("evil.py", EVIL), setting(key, value))
        add(f"{key}={str(value)[:60]}", spoil, (*POLICY, "show"), () if may else POLICY)
    for name, blob in HEADERS.items():
        add(f"state: {name}", state(blob), POLICY[:3], POLICY[1:3])
        add(f"rows: {name}", rows(blob), ("resume",))
    for path, value in MANIFESTS:
        add(f"manifest: {path} is {str(value)[:40]}", manifest(_set(path, value)), POLICY[:3])
    for name, raw in JSON_BYTES.items():
        add(f"manifest: {name}", content(f"checkpoints/{NAME}/manifest.json", raw), POLICY[:3], POLICY[:3])
    for name, raw in LINES.items():
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            add(f"{file}: {name}", content(file, raw))
    files = [
        "run.json",
        "config.yaml",
        "metrics.jsonl",
        "evaluations.jsonl",
        "log.txt",
        f"checkpoints/{NAME}/manifest.json",
    ]
    files += [f"checkpoints/{NAME}/state.safetensors"]
    for file in files:
        add(f"{file} is a pipe", pipe(file))
        add(f"{file} is a folder", folder(file))
        add(f"{file} leads outside", linked(file, "OUTSIDE"))
        add(f"{file} leads to itself", linked(file, Path(file).name))
        add(f"{file} leads to /dev/zero", linked(file, "/dev/zero"))
        for at, blob in enumerate(PICKLES):
            add(f"{file} is pickle {at}", content(file, blob), (POLICY[at], "show", "verify", "archive"))
    for name in ("checkpoints", f"checkpoints/{NAME}", "checkpoints/replay"):
        add(f"{name} leads outside", linked(name, "OUTSIDE"), (*POLICY, "verify", "archive"), POLICY[:1])
    add("metrics.cut.jsonl leads outside", linked_new("metrics.cut.jsonl"), ("resume", "verify", "archive", "rm"))
    add("metrics.cut.tmp leads outside", linked_new("metrics.cut.tmp"), ("resume", "rm"))
    for text in ("../../outside/secret.txt", "/etc/passwd", "run.json/../../good/run.json", "\x1b[2J"):
        add(f"SHA256SUMS names {text!r}", content("SHA256SUMS", f"{'0' * 64}  {text}\n"), ("verify", "archive", "rm"))
    add("SHA256SUMS is large", content("SHA256SUMS", "x" * BIG), ("verify", "archive"))
    add("log.txt has escape sequences", both(record(status="failed"), content("log.txt", "\x1b]0;x\x07\x1b[2J\n" * 9)))
    for extension in ("pkl", "pt", "pth", "joblib", "npy", "npz", "h5", "keras", "ckpt", "bin"):
        add(
            f"policy.{extension} is pickle",
            content(f"policy.{extension}", PICKLES[1]),
            (POLICY[0], "verify", "archive"),
        )
    return made


CASES = _cases()
