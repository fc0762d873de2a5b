"""The method: a frozen CLIP with noise added between its stages (paper, Figure 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jaxtyping import Array, Float

from pini_jax.clip.towers import stage
from pini_jax.core import rng
from pini_jax.core.errors import InputError
from pini_jax.methods.method import NO_SUPPORT, Batch, Method, Support, Text, Variables
from pini_jax.methods.objective import Parts
from pini_jax.noise.gaussian import Draw, Gaussian, divergence, draw_mean
from pini_jax.noise.generators import Generator, Site
from pini_jax.noise.sites import IMAGE_SITES
from pini_jax.noise.structured import PER_CLASS


@dataclasses.dataclass(frozen=True)
class Injector(Method):
    """Zero-shot CLIP with noise at some sites; eps = mu + sigma z is a `+` between two stages.

        prefix = embed(ids) + eps                   prompt_tokens
        text = encode(prefix, suffixes) + eps       text_features
        pixels + eps                                pixels
        patches = embed(pixels) + eps               patch_tokens
        images = encode(patches) + eps              image_features

    Variables are {site: parameters} and {site: {collection: ...}}.

    Source: arXiv 2412.10817.

    Attributes:
        generators: site -> module that makes the noise there.
    """

    generators: FrozenDict[str, Generator] = FrozenDict()

    @property
    def needs(self) -> frozenset[str]:
        """As in `Method`."""
        of_sites = {"prompt_tokens": "prompts", "pixels": "pixels", "patch_tokens": "pixels"}
        needs = {of_sites[site] for site in self.generators if site in of_sites}
        return frozenset(needs | {"support" for one in self.generators.values() if one.reads_support})

    @property
    def is_fitted(self) -> bool:
        """Where all noise is fixed, nothing learns."""
        return all(generator.control == "random" for generator in self.generators.values())

    @property
    def is_per_class(self) -> bool:
        """A table of the classes is; all other noise carries over to any class."""
        return isinstance(self.generators.get("text_features"), PER_CLASS)

    @property
    def is_random(self) -> bool:
        """Unless sigma is 0 at every site."""
        return any(generator.control != "mean_only" for generator in self.generators.values())

    @property
    def moves_images(self) -> bool:
        """Whether there is a mean at a site of the images."""
        return any(not g.is_still for site, g in self.generators.items() if site in IMAGE_SITES)

    def num_draws(self, num_samples: int) -> dict[str, int]:
        """`num_samples` in all: of the text features, or else of the images."""
        sites = ("text_features",) if "text_features" in self.generators else IMAGE_SITES
        return dict.fromkeys(sites, num_samples)

    # ------------------------------------------------------------------------------------------- init

    def init(self, key: Array, theta: Mapping, text: Text, support: Support = NO_SUPPORT) -> Variables:
        """Draws the parameters of every generator.

        Raises:
            InputError: there is prompt noise, but no prompt token for it.
        """
        phi, buffers = {}, {}
        for site, generator in self.generators.items():
            blank = self._blank(site, text)._replace(support=support)
            collections = dict(generator.init(rng.stream(key, site), blank))
            if parameters := collections.pop("params", {}):
                phi[site] = parameters
            if collections:
                buffers[site] = collections
        return Variables(phi, buffers)

    def _blank(self, site: str, text: Text) -> Site:
        """What the generator of a site sees: x in its shape alone."""
        plain = text.features
        _, c, e = plain.shape
        match site:
            case "prompt_tokens":
                if text.prompts is None:
                    raise InputError(
                        "noise at prompt_tokens needs the text tower and one template: use image_features"
                    )
                if not len(text.prompts.prefix):
                    raise InputError("the template has nothing before {}, where the noise of prompt_tokens goes")
                shape = len(text.prompts.prefix), self.text_tower.sizes.transformer.width
                return self._site(site, jnp.zeros((1, 1, *shape)), plain)
            case "text_features":
                return self._site(site, jnp.zeros((1, 1, c, e)), plain)
            case "image_features":
                return self._site(site, jnp.zeros((1, 1, 1, e)), plain)
        side = self.image_tower.sizes.image_size
        pixels = jnp.zeros((1, side, side, 3))
        embed = lambda: self.image_tower.init_with_output(jax.random.key(0), pixels, method="embed")[0]  # noqa: E731
        patches = jnp.zeros((1, 1, *jax.eval_shape(embed).shape))
        if site == "pixels":
            return self._site(site, pixels[None, None], plain, query=self._patches(patches))
        return self._site(site, patches, plain)

    def _site(self, site: str, x: Array, text: Array, **others: Any) -> Site:
        lead = {"prompt_tokens": 2, "text_features": 2}.get(site, 3)
        return Site(x, x.shape[lead:], text, **others)

    def _patches(self, tokens: Float[Array, "n k b *m d"]) -> Float[Array, "n k b *p d"]:
        """Without the class token."""
        return tokens[..., int(getattr(self.image_tower.sizes, "class_token", False)) :, :]

    # ------------------------------------------------------------------------------------------- stages

    def _noise(
        self, site: str, variables: Variables, seen: Site, draw: Draw, weights: Array | None = None
    ) -> tuple[Array, Mapping]:
        """Samples of a site's noise, and the buffers afterwards."""
        collections = {"params": variables.phi.get(site, {}), **variables.buffers.get(site, {})}
        updated = ["batch_stats"] if weights is not None and "batch_stats" in collections else []
        gaussian, changed = self.generators[site].apply(
            collections, seen._replace(weights=weights), mutable=updated
        )
        if site in IMAGE_SITES and len(seen.text) > gaussian.mean.shape[1]:
            # Every draw of the text meets draws of its own, even where the noise does not look at it.
            mean, scale = (jnp.repeat(x, len(seen.text), axis=1) for x in (gaussian.mean, gaussian.scale))
            gaussian = gaussian._replace(mean=mean, scale=scale)
        buffers = variables.buffers
        if updated:
            buffers = {**buffers, site: {**buffers[site], **changed}}
        return draw(site, gaussian), buffers

    def prompt_tokens(
        self, variables: Variables, theta: Mapping, text: Text, draw: Draw = draw_mean
    ) -> tuple[Float[Array, "k a+p d"], Float[Array, "r s d"]]:
        """With noise on the prefix, not on the start tokens; a generator may look at the zero-shot text."""
        prefix, suffix = super().prompt_tokens(variables, theta, text, draw)
        if "prompt_tokens" in self.generators:
            start = len(text.prompts.start)
            seen = self._site("prompt_tokens", prefix[None, :, start:], text.features)
            noise, _ = self._noise("prompt_tokens", variables, seen, draw)
            prefix = (prefix + jnp.pad(noise[:, 0], ((0, 0), (start, 0), (0, 0)))).astype(suffix.dtype)
        return prefix, suffix

    def text_features(
        self, variables: Variables, text: Float[Array, "k c e"], draw: Draw = draw_mean
    ) -> Float[Array, "k c e"]:
        """t + mu + sigma z: every draw for each draw of the prompt's noise."""
        if "text_features" in self.generators:
            seen = self._site("text_features", text[None], text)
            noise, _ = self._noise("text_features", variables, seen, draw)
            text = (text + noise).reshape(-1, *text.shape[1:])
        return text

    def encode_images(
        self,
        variables: Variables,
        theta: Mapping,
        text: Float[Array, "k c e"],
        pixels: Float[Array, "b h w 3"],
        draw: Draw = draw_mean,
        weights: Float[Array, "b"] | None = None,
    ) -> tuple[Float[Array, "n k b e"], Mapping]:
        """With noise on the pixels, and on the patches after the first norm."""
        buffers = variables.buffers

        def run(name: str, x: Float[Array, "n k b *x"]) -> Float[Array, "n k b *y"]:
            lead = x.shape[:3]
            y = stage(self.image_tower, name, theta["image"], x.reshape(-1, *x.shape[3:]))
            return y.reshape(*lead, *y.shape[1:])

        x = pixels[None, None]
        if "pixels" in self.generators:
            seen = self._site("pixels", x, text, query=self._patches(run("embed", x)))
            noise, buffers = self._noise("pixels", variables, seen, draw, weights)
            x = x + noise
        tokens = run("embed", x)
        if "patch_tokens" in self.generators:
            noise, _ = self._noise("patch_tokens", variables, self._site("patch_tokens", tokens, text), draw)
            tokens = (tokens + noise).astype(tokens.dtype)
        return run("project", run("encode", tokens)), buffers

    def image_features(
        self,
        variables: Variables,
        text: Float[Array, "k c e"],
        features: Float[Array, "n k b e"],
        draw: Draw = draw_mean,
    ) -> Float[Array, "n k b e"]:
        """f + mu + sigma z, for n draws given each of the k draws of the text; un-normalised like both inputs."""
        if "image_features" in self.generators:
            seen = self._site("image_features", features, text)
            features = features + self._noise("image_features", variables, seen, draw)[0]
        return features

    # ------------------------------------------------------------------------------------------- loss

    def loss(
        self, variables: Variables, theta: Mapping, text: Text, batch: Batch, draw: Draw
    ) -> tuple[Parts, Mapping]:
        """The objective and kl_weight KL(noise || N(start, s^2 I)), of all that is drawn from and learned."""
        settings, divergences = self.loss_settings, []

        def watched(site: str, gaussian: Gaussian) -> Array:
            """The draw, and beside it what is drawn from."""
            nats = divergence(gaussian, settings.kl_scale)
            if self.generators[site].control == "random":
                pass  # nothing of it is learned
            elif site == "prompt_tokens":
                divergences.append(nats.sum())
            elif site == "text_features":
                divergences.append(nats.mean())
            else:
                # [n k b ...]: all coordinates of an image, and the mean over those that count.
                of_image = nats.sum(tuple(range(3, nats.ndim))).mean((0, 1))
                divergences.append((of_image * batch.weights).sum() / batch.weights.sum())
            return draw(site, gaussian)

        parts, buffers = super().loss(variables, theta, text, batch, watched if settings.kl_weight else draw)
        return parts._replace(loss=parts.loss + settings.kl_weight * sum(divergences, jnp.float32(0))), buffers
