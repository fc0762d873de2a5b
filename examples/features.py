"""Features in memory: settings are searched by cross-validation, as with any classifier of scikit-learn's.

python examples/features.py

The features are those of the bundled CLIP and digits; with others there are no towers either.
"""

import numpy as np
from sklearn.model_selection import GridSearchCV

from pini_jax import Classifier
from pini_jax.clip import pretrained, prompts, zero_shot
from pini_jax.core import mesh
from pini_jax.data import features
from pini_jax.data.datasets import digits
from pini_jax.data.selection import select

SEARCH = {"method": ["gda", "tip_adapter"], "logit_scale": [30.0, 100.0]}


def main(shots: int = 8) -> float:
    """Searches on a few shots of the digits; the accuracy on the test images."""
    clip, data = pretrained.load_clip("tiny_clip"), select(digits.load_digits(), shots=shots, seed=1)
    encode = features.make_encoder(clip, mesh.make_mesh())
    x, test_x = (features.features(records, clip, encode) for records in (data.train, data.test))
    y, test_y = ([data.class_names[record.label] for record in records] for records in (data.train, data.test))
    built = prompts.build(clip.tokenizer, "a photo of the digit {}.", data.class_names, clip.text_tower.sizes)
    text = np.asarray(zero_shot.encode_classes(clip.text_tower, clip.theta, built))[0]
    classifier = Classifier(class_names=data.class_names, text_features=text)
    search = GridSearchCV(classifier, SEARCH, cv=2).fit(x, y)
    print(search.best_params_)
    return search.score(test_x, test_y)


if __name__ == "__main__":
    print(f"test accuracy {main():.1%}")
