"""The paper's ablations, one axis at a time, around the noise of another config.

    pini train --config=ablation:shots=4 --workdir=runs/ablation/digits
    pini train --config=ablation:base=features,path=dtd_vitb32.npz --workdir=runs/ablation/dtd
    pini report runs/ablation

The base is `digits`, or any other config: `ablation:base=paper,dataset=dtd,data_dir=/data`. Every variant is
trained with seeds 1 to 3, at the shots that are given, or at 1, 4 and 16; prediction modes are columns of every
result. Axes: where the noise is and what makes it, with draws in training and without; the number of draws, bound,
divergence, reduction, size, how sigma is made, and what is learned of mu and sigma. `docs/ablation.md` says what
came out.
"""

from collections.abc import Iterator, Mapping

from pini_jax.config import take_argument
from pini_jax.core import config_file
from pini_jax.data.datasets import sources
from pini_jax.noise.sites import SITES

CONTROLS = ("random", "mean_only", "scale_only")
LEVELS = (0.1, 0.3)  # of the norm of what noise is added to
OF_FEATURES = ("text_features", "image_features")


def variants(noise: Mapping[str, Mapping], sites: Mapping) -> dict[str, dict]:
    """Name -> the settings that differ from a base with this noise; `sites` are those that it can have."""
    return {"none": {"method": "zero_shot"}, "base": {}} | dict(_places(sites)) | dict(_settings(noise))


def _places(sites: Mapping) -> Iterator[tuple[str, dict]]:
    """At one site alone, by each of its generators: noise, or a mean learned without any; and on both sides."""
    for site in sites.values():
        for generator in site.generators:
            alone = {"generator": generator}
            yield f"{site.name}: {generator}", {"noise": {site.name: alone}}
            yield f"{site.name}: {generator}, mean_only", {"noise": {site.name: alone | {"control": "mean_only"}}}
    yield "both sides: table", {"noise": {name: {"generator": "table"} for name in OF_FEATURES}}


def _settings(noise: Mapping[str, Mapping]) -> Iterator[tuple[str, dict]]:
    """The base's noise with another number of draws, loss, form or size, or with a part of it alone."""

    def everywhere(**settings) -> dict:
        return {"noise": {site: dict(own) | settings for site, own in noise.items()}}

    for k in (4, 16):
        yield f"k = {k}", {"num_samples": k}
        yield f"k = {k}, multi_sample", {"num_samples": k, "objective": {"bound": "multi_sample"}}
    for weight in (1e-4, 1e-2):
        yield f"KL x {weight:g}", {"objective": {"kl_weight": weight}}
    for reduction in (2, 4):
        own = dict(noise["image_features"]) | {"reduction": reduction}
        yield f"reduction = {reduction}", {"noise": {**noise, "image_features": own}}
    for level in LEVELS:
        yield f"level = {level:g}", everywhere(level=level)
        yield f"random, level = {level:g}", everywhere(level=level, control="random")
    for sigma in ("softplus", "exp", "free"):  # the first two begin near 1, which a level makes small
        yield f"sigma: {sigma}, level = {LEVELS[0]:g}", everywhere(sigma=sigma, level=LEVELS[0])
    for control in CONTROLS:
        yield control, everywhere(control=control)


def get_config(arguments: str = ""):
    base, others = take_argument(arguments, "base") if "base=" in arguments else ("digits", arguments)
    config = config_file.load_config(f"{base}:{others}")
    has_images = sources.has_images(config.dataset)
    sites = SITES if has_images else {name: SITES[name] for name in OF_FEATURES}
    config.population = {"variant": variants(config.noise.to_dict(), sites), "seed": (1, 2, 3)}
    if "shots=" not in others:
        config.population["shots"] = (1, 4, 16)
    return config
