"""The support vector machine that AutoGluon's few-shot learner puts on features, and its probabilities.

Source: `FewShotSVMLearner`, whose `fit_per_run` and `predict_proba` do the same after their own image tower:
https://github.com/autogluon/autogluon/blob/master/multimodal/src/autogluon/multimodal/learners/few_shot_svm.py
"""

from __future__ import annotations

import sys

import numpy as np
from autogluon.multimodal.learners import FewShotSVMLearner
from autogluon.multimodal.utils import logits_to_prob

if __name__ == "__main__":
    source, output = sys.argv[1:]
    given = np.load(source)
    machine = FewShotSVMLearner.get_svm_per_run(None).fit(given["train_x"], given["train_y"])
    p = logits_to_prob(machine.decision_function(given["test_x"]))
    np.save(output, np.log(p if p.ndim == 2 else np.stack([1 - p, p], axis=1)))
