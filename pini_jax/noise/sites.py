"""Where noise is added: five sites, each a value, and from a config to the generators at some of them.

| site             | noise is added to                                              | one draw is for   |
|------------------|----------------------------------------------------------------|-------------------|
| `prompt_tokens`  | embeddings of the tokens before the class name                  | all classes       |
| `text_features`  | output of the text tower                                        | a class           |
| `pixels`         | normalised pixels                                               | an image          |
| `patch_tokens`   | embedded patches, after the first norm                          | an image          |
| `image_features` | output of the image tower                                       | an image          |

Source: paper, Figure 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from pini_jax.clip.prompts import Prompts
from pini_jax.clip.towers import TextTower
from pini_jax.core import options
from pini_jax.core.errors import InputError, did_you_mean
from pini_jax.core.shapes import Numbers
from pini_jax.noise.generators import CrossAttention, Generator, Inputs, Mlp, PromptMlp, Table
from pini_jax.noise.pixels import Conv, PatchAttention
from pini_jax.noise.structured import Discriminant, Residual

# The values of the forward pass that noise can be added to.
STAGES = ("prompt_tokens", "text_features", "pixels", "patch_tokens", "image_features", "logits")


class Surroundings(NamedTuple):
    """The classes and the towers that a site is built for.

    Attributes:
        text: zero-shot features of the classes.
        prompts: None where texts are not encoded at every step.
        text_tower, image_tower: None where features are given.
    """

    text: Float[Array, "1 c e"]
    prompts: Prompts | None
    text_tower: TextTower | None
    image_tower: nn.Module | None


Blank = Callable[[Surroundings], Array]


# ------------------------------------------------------------------------------------------------ how KL is summed


def total(nats: Float[Array, "1 1 p"], weights: Float[Numbers, "b"]) -> Float[Array, ""]:
    """The sum over everything, in nats."""
    return nats.sum()


def mean_over_classes(nats: Float[Array, "n k c"], weights: Float[Numbers, "b"]) -> Float[Array, ""]:
    """The mean over classes, in nats."""
    return nats.mean()


def mean_over_images(nats: Float[Array, "n k b *x"], weights: Float[Numbers, "b"]) -> Float[Array, ""]:
    """The sum over an image's coordinates, averaged over the images that count, in nats."""
    per_image = nats.sum(tuple(range(3, nats.ndim))).mean((0, 1))
    return (per_image * weights).sum() / weights.sum()


# ------------------------------------------------------------------------------------------------ blanks


def _prompt_tokens(around: Surroundings) -> Float[Array, "1 1 p d"]:
    if around.prompts is None or around.text_tower is None:
        raise InputError("noise at prompt_tokens needs the text tower and one template: use image_features")
    if not len(around.prompts.prefix):
        raise InputError("the template has nothing before {}, where the noise of prompt_tokens goes")
    return jnp.zeros((1, 1, len(around.prompts.prefix), around.text_tower.sizes.transformer.width))


def _text_features(around: Surroundings) -> Float[Array, "1 1 c e"]:
    return jnp.zeros((1, *around.text.shape))


def _image_features(around: Surroundings) -> Float[Array, "1 1 1 e"]:
    return jnp.zeros((1, 1, 1, around.text.shape[-1]))


def _pixels(around: Surroundings) -> Float[Array, "1 1 1 h w 3"]:
    side = _image_tower(around).sizes.image_size
    return jnp.zeros((1, 1, 1, side, side, 3))


def _patch_tokens(around: Surroundings) -> Float[Array, "1 1 1 ... d"]:
    tower, pixels = _image_tower(around), _pixels(around)[0, 0]
    embed = lambda: tower.init_with_output(jax.random.key(0), pixels, method="embed")[0]  # noqa: E731
    return jnp.zeros((1, 1, *jax.eval_shape(embed).shape))


def _image_tower(around: Surroundings) -> Any:
    if around.image_tower is None:
        raise InputError("noise at pixels and patch_tokens needs the image tower: use image_features")
    return around.image_tower


# ------------------------------------------------------------------------------------------------ sites


@dataclasses.dataclass(frozen=True)
class Site:
    """A place between two stages of CLIP where noise can be added.

    Attributes:
        name: in the config; of the draw's stream too.
        side: `text`, whose noise all images share, or `image`, where every image has its own.
        blank: what the noise is added to, in its shape alone.
        divergence: how KL(noise || start), in nats of every vector, becomes one number.
        generators: name -> what makes noise here.
        needs: which of the towers' inputs a step must have: `prompts`, `pixels`, or neither.
        per_class: whether its vectors belong to classes, so that a table of them fits no other classes.
        stage: the value of the forward pass that the noise is added to: by default the site's own name.
    """

    name: str
    side: Literal["text", "image"]
    blank: Blank
    divergence: Callable[[Array, Numbers], Array]
    generators: FrozenDict[str, type[Generator]] = FrozenDict()
    needs: frozenset[str] = frozenset()
    per_class: bool = False
    stage: str = ""

    @property
    def at(self) -> str:
        """The value of the forward pass that the noise is added to."""
        return self.stage or self.name

    def inputs(self, x: Array, text: Float[Array, "k c e"], **others: Any) -> Inputs:
        """The inputs of a generator at this site, when noise is added to x [n k (b) ...]."""
        lead = 2 if self.side == "text" else 3
        return Inputs(x, x.shape[lead:], text, **others)


# In the order in which noise is added.
SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site(
            name="prompt_tokens",
            side="text",
            blank=_prompt_tokens,
            divergence=total,
            generators=FrozenDict({"table": Table, "mlp": PromptMlp, "cross_attention": CrossAttention}),
            needs=frozenset({"prompts"}),
        ),
        Site(
            name="text_features",
            side="text",
            blank=_text_features,
            divergence=mean_over_classes,
            generators=FrozenDict({"table": Table, "mlp": Mlp, "discriminant": Discriminant}),
            per_class=True,
        ),
        Site(
            name="pixels",
            side="image",
            blank=_pixels,
            divergence=mean_over_images,
            generators=FrozenDict({"conv": Conv, "cross_attention": PatchAttention}),
            needs=frozenset({"pixels"}),
        ),
        Site(
            name="patch_tokens",
            side="image",
            blank=_patch_tokens,
            divergence=mean_over_images,
            generators=FrozenDict({"mlp": Mlp, "cross_attention": CrossAttention}),
            needs=frozenset({"pixels"}),
        ),
        Site(
            name="image_features",
            side="image",
            blank=_image_features,
            divergence=mean_over_images,
            generators=FrozenDict(
                {"table": Table, "mlp": Mlp, "cross_attention": CrossAttention, "residual": Residual}
            ),
        ),
    )
}


# ------------------------------------------------------------------------------------------------ from a config


def generator_options(generator: type[Generator]) -> dict[str, Any]:
    """The options of a generator with their defaults."""
    return options.defaults(generator, leave_out=("name", "parent"))


def noise_with_defaults(noise: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The noise of a config with the default of every option written out."""
    return {
        site: {"generator": settings["generator"]}
        | generator_options(SITES[site].generators[settings["generator"]])
        | dict(settings)
        for site, settings in noise.items()
    }


def build_noise(noise: Mapping[str, Any]) -> FrozenDict[str, Generator]:
    """Makes the generator of every site from {site: {"generator": name, option: value, ...}}.

    Raises:
        InputError: an unknown site, generator or option, or a value that cannot be.
    """
    generators = {site: _build(site, settings) for site, settings in noise.items()}
    return FrozenDict({site: made for site, made in generators.items() if made.control != "none"})


def _build(site: str, settings: Any) -> Generator:
    if site not in SITES:
        raise InputError(f"noise has no site {site!r}{did_you_mean(site, SITES)}")
    if not isinstance(settings, Mapping):
        raise InputError(f"noise.{site}={settings!r} must be {{'generator': name, option: value, ...}}")
    name, known = str(settings.get("generator")), SITES[site].generators
    if name not in known:
        raise InputError(f"noise.{site} has no generator {name!r}{did_you_mean(name, known)}")
    generator, given = known[name], {key: value for key, value in settings.items() if key != "generator"}
    title, prefix = f"noise.{site}: {name}", f"noise.{site}."
    for problem in options.problems_of(generator, given, generator_options(generator), title, prefix):
        raise InputError(problem)
    return generator(**given)
