"""Layers that Keras lacks. Imported only when a network is built, because it loads Keras."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf


class SpectralDense(tf.keras.layers.Dense):
    """A dense layer whose kernel is divided by its largest singular value (Miyato et al. 2018).

    Power iteration (their Algorithm 1) estimates the value: one round for each training call, stored in the
    non-trainable vector `u` [1, units]. Keras' SpectralNormalization overwrites the kernel, which a pure function
    cannot do.
    """

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the variables for inputs [B, width] = `input_shape`."""
        super().build(input_shape)
        self.u = self.add_weight(
            shape=(1, self.units), initializer=tf.keras.initializers.RandomNormal(seed=0), trainable=False, name="u"
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Outputs [B, units] for inputs [B, width]."""
        kernel, u = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.u)
        frozen_kernel = tf.stop_gradient(kernel)
        v = _unit(tf.matmul(u, frozen_kernel, transpose_b=True))
        u = _unit(tf.matmul(v, frozen_kernel))
        if training:
            self.u.assign(u)
        sigma = tf.reduce_sum(tf.matmul(v, kernel) * u)  # gradient flows through the kernel alone
        return self.activation(tf.matmul(inputs, kernel / sigma) + self.bias)


class NoisyDense(tf.keras.layers.Layer):
    """A dense layer with factorised Gaussian noise on its weights (Fortunato et al. 2018, equations 9 to 11).

    y = x (mu_w + sigma_w * f(e_in) f(e_out)) + mu_b + sigma_b * f(e_out), with f(e) = sign(e) sqrt|e|. The
    non-trainable variable `noise` [inputs + units] holds e_in and e_out; `networks.Network` fills it at each call.
    All sigma start at sigma0 / sqrt(inputs).
    """

    def __init__(self, units: int, kernel_initializer: Any, sigma0: float) -> None:
        super().__init__()
        self.units, self.sigma0 = units, sigma0
        self.kernel_initializer, self.bias_initializer = kernel_initializer, tf.keras.initializers.Zeros()

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Creates the variables for inputs [B, width] = `input_shape`."""
        shape = (input_shape[-1], self.units)
        sigma = tf.keras.initializers.Constant(self.sigma0 / math.sqrt(input_shape[-1]))
        self.kernel_sigma_initializer = self.bias_sigma_initializer = sigma
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=shape[1:], initializer=self.bias_initializer, name="bias")
        self.kernel_sigma = self.add_weight(shape=shape, initializer=sigma, name="kernel_sigma")
        self.bias_sigma = self.add_weight(shape=shape[1:], initializer=sigma, name="bias_sigma")
        self.noise = self.add_weight(shape=(sum(shape),), initializer="zeros", trainable=False, name="noise")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Outputs [B, units] for inputs [B, width]."""
        noise = tf.convert_to_tensor(self.noise)
        noise = tf.sign(noise) * tf.sqrt(tf.abs(noise))
        above, below = noise[: inputs.shape[-1]], noise[inputs.shape[-1] :]
        kernel = self.kernel + self.kernel_sigma * above[:, None] * below
        return tf.matmul(inputs, kernel) + self.bias + self.bias_sigma * below


def _unit(x: tf.Tensor) -> tf.Tensor:
    """x divided by its Euclidean norm."""
    return x / (tf.sqrt(tf.reduce_sum(tf.square(x))) + 1e-12)
