"""A training loop of one's own: the towers as pure functions, noise on the class embeddings, and optax.

python examples/own_training.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pini_jax.clip import pretrained, prompts
from pini_jax.clip.towers import stage
from pini_jax.clip.zero_shot import cosine_logits, encode_classes
from pini_jax.data.datasets import digits
from pini_jax.data.selection import select
from pini_jax.data.views import Views


def main(steps: int = 200) -> float:
    """Trains sixteen shots of the digits; the accuracy on the test images."""
    clip, data = pretrained.load_clip("tiny_clip"), select(digits.load_digits(), shots=16, seed=1)
    encode = jax.jit(lambda theta, pixels: stage(clip.image_tower, "__call__", theta, pixels))

    def read(records):
        pixels = Views(records, clip.preprocessing)[np.arange(len(records))]
        return encode(clip.theta["image"], pixels), jnp.array([record.label for record in records])

    built = prompts.build(clip.tokenizer, "a photo of the digit {}.", data.class_names, clip.text_tower.sizes)
    text = encode_classes(clip.text_tower, clip.theta, built)
    phi = {"mean": jnp.zeros(text.shape[1:]), "scale": jnp.full(text.shape[1:], 0.1)}
    optimiser = optax.adam(1e-2)

    def loss(phi, key, images, labels):
        noised = text + phi["mean"] + phi["scale"] * jax.random.normal(key, (4, *text.shape[1:]))
        logits = cosine_logits(clip.theta, images[None, None], noised)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[None, None]).mean()

    @jax.jit
    def step(phi, state, i):
        updates, state = optimiser.update(jax.grad(loss)(phi, jax.random.key(i), *train), state)
        return optax.apply_updates(phi, updates), state

    train, (images, labels) = read(data.train), read(data.test)
    state = optimiser.init(phi)
    for i in range(steps):
        phi, state = step(phi, state, i)
    logits = cosine_logits(clip.theta, images[None, None], text + phi["mean"])[0, 0]
    return float((logits.argmax(-1) == labels).mean())


if __name__ == "__main__":
    print(f"test accuracy {main():.1%}")
