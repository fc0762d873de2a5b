"""The method: a frozen CLIP with noise added between its stages (paper, Figure 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from pini_jax.clip.towers import stage
from pini_jax.core import rng
from pini_jax.core.shapes import Numbers, Parameters, present
from pini_jax.data.support import NO_SUPPORT, Support
from pini_jax.methods.method import Method, Text, Traits, Variables
from pini_jax.noise.draws import Draw, draw_mean
from pini_jax.noise.gaussian import Gaussian, divergence
from pini_jax.noise.generators import Generator, Inputs
from pini_jax.noise.sites import SITES, Site, Surroundings


@dataclasses.dataclass(frozen=True)
class Injector(Method):
    """Zero-shot CLIP with noise at some sites: eps = mu + sigma z is added between two stages.

        prefix = embed(ids) + eps                   prompt_tokens
        text = encode(prefix, suffixes) + eps       text_features
        pixels + eps                                pixels
        patches = embed(pixels) + eps               patch_tokens
        images = encode(patches) + eps              image_features

    Sites that are registered besides may also stand at the `logits`. Variables are {site: parameters} and
    {site: {collection: ...}}.

    Source: arXiv 2412.10817.

    Attributes:
        generators: site -> module that makes the noise there.
    """

    generators: FrozenDict[str, Generator] = FrozenDict()

    @property
    def traits(self) -> Traits:
        """The traits that follow from the sites and their generators."""
        generators = {SITES[name]: generator for name, generator in self.generators.items()}
        needs = frozenset[str]().union(*(site.needs for site in generators))
        return Traits(
            reads="pixels" if "pixels" in needs else "features",
            encodes_prompts="prompts" in needs,
            starts_from_support=any(generator.reads_support for generator in generators.values()),
            is_fitted=all(generator.control == "random" for generator in generators.values()),
            is_per_class=any(site.per_class and generator.is_table for site, generator in generators.items()),
            is_random=any(generator.control != "mean_only" for generator in generators.values()),
            convolves=any(generator.convolves for generator in generators.values()),
            moves_images=any(site.side == "image" and not g.is_still for site, g in generators.items()),
        )

    def num_draws(self, num_samples: int) -> dict[str, int]:
        """`num_samples` draws of the text features or, if these have no noise, the images; one of the prompt."""
        texts = [name for name in self.generators if SITES[name].at == "text_features"]
        images = [name for name in self.generators if SITES[name].side == "image"]
        return dict.fromkeys(texts or images, num_samples)

    def init(self, key: Array, theta: Parameters, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Draws the parameters of every generator.

        Raises:
            InputError: there is prompt noise, but no prompt token for it.
        """
        phi, buffers = {}, {}
        for name, generator in self.generators.items():
            blank = self._blank(SITES[name], text)._replace(support=support)
            if generator.asks_patches:
                blank = blank._replace(query=self._patches(SITES["patch_tokens"].blank(self._around(text))))
            collections = dict(generator.init(rng.stream(key, name), blank))
            if parameters := collections.pop("params", {}):
                phi[name] = parameters
            if collections:
                buffers[name] = collections
        return Variables(phi, buffers)

    def _blank(self, site: Site, text: Text) -> Inputs:
        """What the generator of a site sees: x in its shape alone."""
        return site.inputs(site.blank(self._around(text)), text.features)

    def _around(self, text: Text) -> Surroundings:
        return Surroundings(text.features, text.prompts, self.text_tower, self.image_tower)

    def _patches(self, tokens: Float[Array, "n k b *m d"]) -> Float[Array, "n k b *p d"]:
        """Without the class token."""
        sizes = getattr(self.image_tower, "sizes", None)
        return tokens[..., int(getattr(sizes, "class_token", False)) :, :]

    # ------------------------------------------------------------------------------------------- stages

    def _add(
        self,
        at: str,
        x: Array,
        variables: Variables,
        text: Float[Array, "k c e"],
        draw: Draw,
        **others: Numbers | None,
    ) -> tuple[Array, Variables]:
        """x + eps, for every site at this stage, and the variables with their buffers afterwards."""
        for name, generator in self.generators.items():
            if SITES[name].at == at:
                inputs = SITES[name].inputs(x, text, **others)
                gaussian, changed = self._gaussian(name, generator, variables, inputs)
                x = x + draw(name, gaussian)
                if changed:
                    buffers = variables.buffers
                    variables = variables._replace(buffers={**buffers, name: {**buffers[name], **changed}})
        return x, variables

    def _gaussian(
        self, name: str, generator: Generator, variables: Variables, inputs: Inputs
    ) -> tuple[Gaussian, Parameters]:
        """The noise at a site, and what has changed in its buffers."""
        collections = {"params": variables.phi.get(name, {}), **variables.buffers.get(name, {})}
        updated = ["batch_stats"] if inputs.weights is not None and "batch_stats" in collections else []
        gaussian, changed = generator.apply(collections, inputs, mutable=updated)
        if SITES[name].side == "image" and len(inputs.text) > gaussian.mean.shape[1]:
            # Every draw of the text meets draws of its own, even where the noise does not look at it.
            mean, scale = (jnp.repeat(x, len(inputs.text), axis=1) for x in (gaussian.mean, gaussian.scale))
            gaussian = gaussian._replace(mean=mean, scale=scale)
        return gaussian, changed

    def prompt_tokens(
        self, variables: Variables, theta: Parameters, text: Text, draw: Draw = draw_mean
    ) -> tuple[Float[Array, "k q d"], Float[Array, "r s d"]]:
        """Prompts with noise on the prefix, not on the start tokens; a generator may read the zero-shot texts."""
        prefix, suffix = super().prompt_tokens(variables, theta, text, draw)
        start = len(present(text.prompts).start)
        noised, _ = self._add("prompt_tokens", prefix[None, :, start:], variables, text.features, draw)
        prefix = jnp.concatenate([jnp.repeat(prefix[:, :start], len(noised), axis=0), noised[:, 0]], axis=1)
        return prefix.astype(suffix.dtype), suffix

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "_ c e"]:
        """t + mu + sigma z: every draw for each draw of the prompt's noise."""
        noised, _ = self._add("text_features", text[None], variables, text, draw)
        return noised.reshape(-1, *text.shape[1:])

    def encode_images(
        self,
        variables: Variables,
        theta: Parameters,
        text: Float[Array, "k c e"],
        pixels: Float[Numbers, "b h w 3"],
        draw: Draw = draw_mean,
        weights: Float[Numbers, "b"] | None = None,
    ) -> tuple[Float[Array, "n _ b e"], Parameters]:
        """Image features with noise on the pixels, and on the patches after the first norm."""

        def run(name: str, x: Float[Array, "n k b *x"]) -> Float[Array, "n k b *y"]:
            lead = x.shape[:3]
            y = stage(present(self.image_tower), name, theta["image"], x.reshape(-1, *x.shape[3:]))
            return y.reshape(*lead, *y.shape[1:])

        x = jnp.asarray(pixels)[None, None]
        asked = any(SITES[name].at == "pixels" and g.asks_patches for name, g in self.generators.items())
        query = self._patches(run("embed", x)) if asked else None
        x, variables = self._add("pixels", x, variables, text, draw, query=query, weights=weights)
        tokens = run("embed", x)
        noised, variables = self._add("patch_tokens", tokens, variables, text, draw, weights=weights)
        return run("project", run("encode", noised.astype(tokens.dtype))), variables.buffers

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n _ b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "_ _ b e"]:
        """f + mu + sigma z, for n draws given each of the k draws of the text; un-normalised like both inputs."""
        return self._add("image_features", features, variables, text, draw)[0]

    def logits(
        self,
        variables: Variables,
        theta: Parameters,
        images: Float[Array, "n _ b e"],
        text: Float[Array, "_ c e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n _ b c"]:
        """Logits of cosines; none of the paper's sites is here."""
        plain = super().logits(variables, theta, images, text, draw)
        return self._add("logits", plain, variables, text, draw)[0]

    # ------------------------------------------------------------------------------------------- loss

    def penalty(
        self,
        variables: Variables,
        theta: Parameters,
        text: Text,
        noise: Mapping[str, Gaussian],
        weights: Float[Numbers, "b"],
    ) -> Float[Array, ""] | float:
        """kl_weight KL(noise || N(start, s^2 I)), over the sites with learned noise."""
        settings = self.loss_settings
        if not settings.kl_weight:
            return 0.0
        learned = {name: x for name, x in noise.items() if self.generators[name].control != "random"}
        return settings.kl_weight * sum(
            (
                SITES[name].divergence(divergence(gaussian, settings.kl_scale), weights)
                for name, gaussian in learned.items()
            ),
            jnp.float32(0),
        )
