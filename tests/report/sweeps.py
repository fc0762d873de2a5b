"""Folders of runs as sweeps leave them, made up: what a report reads, without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pini_jax.evaluate import predictions
from pini_jax.evaluate.prediction import summary
from pini_jax.evaluate.result import measure_splits
from pini_jax.runs.folder import seal, write_result

NAMES = (
    *(
        "linear_probe",
        "zero_shot_probe",
        "tip_adapter",
        "tip_adapter_f",
        "clip_adapter",
        "task_res",
        "lp++",
        "clap",
    ),
    *("gda", "coop", "text_features: table", "text_features: mlp", "text_features: discriminant"),
    *("image_features: table", "image_features: mlp", "image_features: cross_attention"),
    *("image_features: residual", "structured: no image noise", "structured: isotropic", "structured"),
)
SCALE = 100.0
HELD_OUT = 20  # images


def write_sweep(
    top: Path,
    names: Sequence[str] = NAMES,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (1, 2, 3),
    classes: int = 10,
    images: int = 300,
    dataset: str = "features:/data/dtd_vitb32.npz",
    class_names: Sequence[str] = (),
) -> None:
    """Every method at all shots and seeds: better with shots, each with strengths of its own."""
    members = {}
    class_names = class_names or [f"class_{number}" for number in range(classes)]
    classes = len(class_names)
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=images)
    # What all methods find hard, and which class an image is taken for.
    hardness, mistaken = rng.normal(size=images), (labels + rng.integers(1, classes, size=images)) % classes
    plain = _answers(0.2 - hardness, labels, mistaken, classes)
    for number, name in enumerate(names):
        strength = rng.normal(0.4, 0.15)
        own = rng.normal(0, 0.3, images)
        for k in shots:
            for seed in seeds:
                luck = rng.normal(0, 0.15 / np.sqrt(k))
                margin = 0.1 + strength * np.log2(2 * k) * 0.5 + luck - hardness + own + rng.normal(0, 0.2, images)
                folder = f"{number:02}-shots_{k}-seed_{seed}"
                members[folder] = {"name": name, "shots": k, "seed": seed}
                result = {"method": "pini", "dataset": dataset, "clip": "", "shots": k, "seed": seed}
                logits = _answers(margin, labels, mistaken, classes)
                _write_run(top / folder, result, labels, plain, logits, class_names)
    (top / "population.json").write_text(json.dumps(members))


def _answers(margin, labels, mistaken, classes):
    """Logits with the label ahead of another class by a margin, twice: two draws."""
    logits = np.random.default_rng(1).normal(0, 0.3, (2, len(labels), classes))
    logits[:, np.arange(len(labels)), labels] += 3
    logits[:, np.arange(len(labels)), mistaken] += 3 - 1.5 * margin
    return logits.astype(np.float32)


def _write_run(folder: Path, result, labels, plain, logits, classes):
    folder.mkdir(parents=True)
    paths = [f"class_{label}/{i:04}.png" for i, label in enumerate(labels)]
    drawn = {"zero_shot": plain[:1], "mean": logits[:1], "sample": logits[1:], "marginal": logits}

    def answers(part):
        own, right = paths[part], labels[part]
        return {
            mode: predictions.answers(own, right, summary(x[:, part], SCALE), 1.0) for mode, x in drawn.items()
        }

    splits = {"val": answers(slice(HELD_OUT)), "test": answers(slice(None))}
    kept = predictions.Kept(splits, dict.fromkeys(splits, classes))
    result |= measure_splits(kept) | {
        "clip_sha256": "b19f1bbe" * 8,
        "num_classes": len(classes),
        "num_train": len(classes) * result["shots"],
        "num_test": len(labels),
        "steps": 400,
        "trainable_parameters": 23488,
        "checkpoint_bytes": 187_908,
        "seconds": {"setup": 1.0, "train": 2.0},
        "steps_per_second": 200.0,
        "device": "1 x cpu (2 cores)",
        "versions": {"pini_jax": "0.2.0", "jax": "0.10.2"},
        "predictions_sha256": predictions.write_predictions(folder / "predictions.parquet", kept),
    }
    config = {"method": "pini", "shots": result["shots"], "seed": result["seed"], "dataset": result["dataset"]}
    config |= {"clip": "", "batch_size": 32, "views": 1, "optim": {"epochs": 100, "lr": 0.001}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [[path, int(label), classes[label]] for path, label in zip(paths, labels, strict=True)]
    selection = {"sha256": "ab", "test_sha256": "cd", "train": rows[:20], "val": rows[20:40], "test": []}
    (folder / "selection.json").write_text(json.dumps(seal(selection)))
    lines = [
        {"step": step, "loss": 2.0 / (1 + step / 100), "accuracy": min(0.95, step / 400), "learning_rate": 1e-3}
        for step in range(20, 401, 20)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_result(folder, result)


def interrupt(under_way: Path, failed: Path) -> None:
    """Takes the results of two runs away: one had not come to its end, and one had diverged."""
    for folder in (under_way, failed):
        (folder / "result.json").unlink()
    lines = (under_way / "metrics.jsonl").read_text().splitlines(keepends=True)
    (under_way / "metrics.jsonl").write_text("".join(lines[:10]) + '{"step": 220, "lo')
    config = json.loads((under_way / "config.json").read_text())
    (under_way / "config.json").write_text(json.dumps(config | {"batch_size": 7, "optim": {"epochs": 150}}))
    (failed / "failure.json").write_text(json.dumps({"reason": "the loss is nan"}))
