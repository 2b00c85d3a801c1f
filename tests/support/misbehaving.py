"""Environments that misbehave, each in its own way; registered as `NAME-v0`, with episodes of five steps.

What they show is [step, 0], but where their fault is in what they show.
"""

import contextlib
import ctypes
import os
import random
import signal
import sys
import threading
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

EPISODE = 5
FAULT_AT = 3  # the step at which those fail that fail


class Steps(gym.Env):
    """Counts its steps; the classes below change one thing each."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_ = 0
        return self.seen(), self.info()

    def step(self, action):
        self.step_ += 1
        if self.step_ == FAULT_AT:
            self.fail()
        return self.seen(), self.reward(action), False, self.step_ == EPISODE, self.info()

    def seen(self):
        return np.array([self.step_, 0.0], np.float32)

    def reward(self, action):
        return float(self.step_)

    def info(self):
        return {}

    def fail(self):
        pass


# What is said beside the numbers.


class RaggedInfo(Steps):
    def info(self):
        n = 1 + (self.step_ * 7) % 5
        return {"path": np.zeros(n), "kind": "a" if n > 2 else 3, "d": {"x": np.zeros((n, n))}, f"key{n}": None}


class UnpicklableInfo(Steps):
    def info(self):
        return {"call": lambda: self, "lock": threading.Lock(), "file": sys.stdout, "many": (each for each in ())}


class NoInfo(Steps):
    def info(self):
        return None


class LargeInfo(Steps):
    def info(self):
        return {"picture": np.zeros((1000, 1000, 3))}


class LyingInfo(Steps):
    """Says what Gymnasium's vector environments say themselves."""

    def info(self):
        return {"final_obs": np.full(2, 99.0), "final_info": 3, "_final_obs": [True], "episode": {"r": 1e9}}


# What is shown, and in which arrays.


class OneArray(Steps):
    def __init__(self):
        self.array = np.zeros(2, np.float32)

    def seen(self):
        self.array[0] = self.step_
        return self.array


class ArrayOfAll(Steps):
    """All copies write into one array."""

    array = np.zeros(2, np.float32)

    def seen(self):
        ArrayOfAll.array[0] = self.step_
        return ArrayOfAll.array


class OneReward(Steps):
    def reward(self, action):
        self.array = getattr(self, "array", np.zeros(()))
        self.array[...] = self.step_
        return self.array


class WritesIntoActions(Steps):
    def reward(self, action):
        action[...] = 1e9
        return float(self.step_)


class Clock(Steps):
    """Shows the time of day, which float32 rounds to minutes."""

    def seen(self):
        return np.array([self.step_, 1.7e9 + 0.05 * self.step_], np.float64)


class OwnLimit(Steps):
    """Ends its episodes itself, with Python's 1 and NumPy's 0 for true and false."""

    def step(self, action):
        obs, reward, _, ended, info = super().step(action)
        return obs, reward, np.bool_(False), int(ended), info


# Where a seed does not decide what happens.


class OwnRandomness(Steps):
    def seen(self):
        return np.array([self.step_, np.random.uniform()], np.float32)


class PythonsRandomness(Steps):
    def reward(self, action):
        return random.random()


class Memory(Steps):
    """Every second episode is of another level."""

    def __init__(self):
        self.episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def reward(self, action):
        return float(self.episodes // 2)


# How they end.


class CloseRaises(Steps):
    def close(self):
        raise OSError("the port is gone")


class CloseBlocks(Steps):
    def close(self):
        time.sleep(600)


class CloseBlocksAndCatches(Steps):
    def close(self):
        while True:
            with contextlib.suppress(Exception):
                threading.Event().wait(600)


class LeavesAThread(Steps):
    """A thread of its own goes on for ever, which Python waits for at its end."""

    def __init__(self):
        self.on = True
        threading.Thread(target=self.work, daemon="pytest" in sys.modules and os.getpid() == MAIN).start()

    def work(self):
        while self.on:
            time.sleep(0.05)

    def close(self):
        pass


MAIN = os.getpid()


# How they fail.


class UnpicklableError(Exception):
    def __init__(self, what, lock):
        super().__init__(what)
        self.what, self.lock = what, lock


class RaisesWhatCannotBePickled(Steps):
    def fail(self):
        raise UnpicklableError("the arm is stuck", threading.Lock())


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class RaisesWhatCannotBeShown(Steps):
    def fail(self):
        raise SilentError


class Exits(Steps):
    def fail(self):
        sys.exit(0)


class TooLarge(Steps):
    def seen(self):
        return np.array([self.step_, 1e300 if self.step_ == FAULT_AT else 0.0])


class NotNumbers(Steps):
    def seen(self):
        return object() if self.step_ == FAULT_AT else super().seen()


class OldReset(Steps):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class OnlyTwo(Steps):
    """Of which there can be two in a process."""

    alive = 0

    def __init__(self):
        if OnlyTwo.alive == 2:
            raise RuntimeError("port 5005 is in use")
        OnlyTwo.alive += 1

    def close(self):
        OnlyTwo.alive -= 1


# How they never come back; in a process of their own.


class Dies(Steps):
    def fail(self):
        os._exit(3)


class Stopped(Steps):
    def fail(self):
        os.kill(os.getpid(), signal.SIGSTOP)


class Sleeps(Steps):
    def fail(self):
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(600)


class HoldsTheInterpreter(Steps):
    def fail(self):
        ctypes.PyDLL(None).sleep(600)


class SleepsInReset(Steps):
    def reset(self, *, seed=None, options=None):
        time.sleep(600)


NAMES = [name for name, each in list(globals().items()) if isinstance(each, type) and issubclass(each, Steps)]
for name in NAMES:
    gym.register(f"{name}-v0", entry_point=globals()[name], disable_env_checker=True, max_episode_steps=1_000)
