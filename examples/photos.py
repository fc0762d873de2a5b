"""Photos in a folder: a classifier of scikit-learn's kind, tested on photos that it has not seen, and kept.

python examples/photos.py FOLDER [CLIP]

FOLDER holds a folder for each class. CLIP has seen such photos: openai/clip-vit-base-patch16 unless given.
"""

import sys
from pathlib import Path

from sklearn.model_selection import train_test_split

from pini_jax import Classifier


def main(folder: str, clip: str = "openai/clip-vit-base-patch16", **settings) -> float:
    """Trains on half of the photos; the accuracy on the others."""
    photos = sorted(path for path in Path(folder).glob("*/*") if path.is_file())
    names = [photo.parent.name for photo in photos]
    half = train_test_split(photos, names, train_size=0.5, stratify=names, random_state=0)
    train, test, train_names, test_names = half
    classifier = Classifier(clip, verbose=True, **settings).fit(train, train_names)
    classifier.save("photos.safetensors")  # for Classifier.load, and for pini predict --workdir=photos.safetensors
    for photo, name, p in zip(
        test[:3], classifier.predict(test[:3]), classifier.predict_proba(test[:3]), strict=True
    ):
        print(photo, name, f"{p.max():.0%}")
    return classifier.score(test, test_names)


if __name__ == "__main__":
    print(f"accuracy {main(*sys.argv[1:]):.0%}")
