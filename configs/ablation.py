"""The paper's ablations, one axis at a time, around the released configuration of another config file.

    pini train --config=ablation --workdir=runs/ablation
    pini report runs/ablation

The base is `digits`, or any other config: `ablation:base=paper,dataset=dtd,data_dir=/data`. Every variant is
trained with seeds 1 to 3; prediction modes are columns of every result. Axes: where the noise is and what makes
it, text or images alone, draws, reduction, bound, what is learned of mu and sigma.
"""

from pini_jax.config import Config, take_argument
from pini_jax.core import config_file
from pini_jax.noise.sites import SITES

RELEASED = dict(Config().noise)
CONTROLS = ("random", "mean_only", "scale_only")


def variants() -> dict[str, dict]:
    """Name -> the settings that differ from the base."""
    variants: dict[str, dict] = {"none": {"method": "zero_shot"}, "both (released)": {"noise": RELEASED}}
    for site in SITES.values():
        for generator in site.generators:
            variants[f"{site.name}: {generator}"] = {"noise": {site.name: {"generator": generator}}}
    for k in (4, 16):
        variants[f"k = {k}"] = {"noise": RELEASED, "num_samples": k}
        variants[f"k = {k}, multi_sample"] = {
            "noise": RELEASED,
            "num_samples": k,
            "objective": {"bound": "multi_sample"},
        }
    for reduction in (2, 4):
        variants[f"reduction = {reduction}"] = {
            "noise": RELEASED | {"image_features": RELEASED["image_features"] | {"reduction": reduction}}
        }
    for control in CONTROLS:
        variants[control] = {
            "noise": {site: settings | {"control": control} for site, settings in RELEASED.items()}
        }
    return variants


def get_config(arguments: str = ""):
    base, others = take_argument(arguments, "base") if "base=" in arguments else ("digits", arguments)
    config = config_file.load_config(f"{base}:{others}")
    config.population = {"variant": variants(), "seed": (1, 2, 3)}
    return config
