"""Keras layers that Keras does not have. Imported only when a network is built: it loads Keras."""

from __future__ import annotations

import tensorflow as tf


class SpectralDense(tf.keras.layers.Dense):
    """A dense layer whose kernel is divided by its largest singular value (Miyato et al. 2018).

    The value is estimated by power iteration (their Algorithm 1): one round per training call,
    kept in the non-trainable vector `u`. Keras' SpectralNormalization overwrites the kernel
    instead, which a pure function cannot do.
    """

    def build(self, input_shape: tuple[int, ...]) -> None:
        super().build(input_shape)
        self.u = self.add_weight(
            shape=(1, self.units), initializer=tf.keras.initializers.RandomNormal(seed=0), trainable=False, name="u"
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        kernel, u = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.u)
        frozen_kernel = tf.stop_gradient(kernel)
        v = _unit(tf.matmul(u, frozen_kernel, transpose_b=True))
        u = _unit(tf.matmul(v, frozen_kernel))
        if training:
            self.u.assign(u)
        sigma = tf.reduce_sum(tf.matmul(v, kernel) * u)  # gradient flows through the kernel alone
        return self.activation(tf.matmul(inputs, kernel / sigma) + self.bias)


def _unit(x: tf.Tensor) -> tf.Tensor:
    return x / (tf.sqrt(tf.reduce_sum(tf.square(x))) + 1e-12)
