"""The optimiser, against PyTorch's and by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pini_jax.config import Optim
from pini_jax.methods import optim
from pini_jax.methods.optim import Length

STEPS_PER_EPOCH, STEPS = 2, 5
RELEASED = Optim(lr=0.1, momentum=0.9, weight_decay=0.05, warmup_lr=0.01)
LENGTH = Length(epochs=4, per_epoch=STEPS_PER_EPOCH)
START = {"a": np.array([[1.0, -2.0]], np.float32), "b": np.array([0.5, 3.0, -1.0], np.float32)}


def gradients():
    rng = np.random.default_rng(0)
    return [{k: rng.standard_normal(v.shape, np.float32) for k, v in START.items()} for _ in range(STEPS)]


def rates(settings):
    """Per step, by the definition."""
    cosine = [settings.lr * (1 + math.cos(math.pi * (e - 1) / LENGTH.epochs)) / 2 for e in range(9)]
    return [([settings.warmup_lr] + cosine[1:])[i // STEPS_PER_EPOCH] for i in range(STEPS)]


def run(settings, length=LENGTH):
    return updated(optim.optimiser(settings, length))


def updated(optimiser):
    """The parameters after all gradients."""
    phi = jax.tree.map(jnp.asarray, START)
    state = optimiser.init(phi)
    for gradient in gradients():
        updates, state = optimiser.update(gradient, state, phi)
        phi = optax.apply_updates(phi, updates)
    return phi


def assert_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_sgd_by_hand(momentum, weight_decay):
    settings = dataclasses.replace(RELEASED, momentum=momentum, weight_decay=weight_decay)
    phi = {k: v.astype(np.float64) for k, v in START.items()}
    trace = {k: 0.0 for k in START}
    for gradient, rate in zip(gradients(), rates(settings), strict=True):
        for k in phi:
            trace[k] = momentum * trace[k] + gradient[k] + weight_decay * phi[k]
            phi[k] = phi[k] - rate * trace[k]
    assert_close(run(settings), phi)


def test_same_parameters_as_pytorch():
    """The decay is coupled in both: part of the gradient, so part of the momentum."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    phi = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    theirs = torch.optim.SGD(phi.values(), lr=1.0, momentum=RELEASED.momentum, weight_decay=RELEASED.weight_decay)
    for gradient, rate in zip(gradients(), rates(RELEASED), strict=True):
        theirs.param_groups[0]["lr"] = rate
        for k, parameter in phi.items():
            parameter.grad = torch.tensor(gradient[k])
        theirs.step()
    assert_close(run(RELEASED), {k: v.detach().numpy() for k, v in phi.items()})


ADAM = dataclasses.replace(RELEASED, name="adam", epsilon=1e-3)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_adam_is_optax_s(weight_decay, epsilon):
    """Of gradients with the decay in them; the decay of AdamW goes by the averages."""
    settings = dataclasses.replace(ADAM, epsilon=epsilon, weight_decay=weight_decay)
    rate = optim.schedule(settings, LENGTH)
    coupled = optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate, eps=epsilon))
    assert_close(run(settings), updated(coupled))
    decoupled = optax.adamw(rate, eps=epsilon, weight_decay=weight_decay)
    ours = run(dataclasses.replace(settings, name="adamw"))
    assert_close(ours, updated(decoupled))
    if weight_decay:
        assert np.abs(ours["b"] - run(settings)["b"]).max() > 1e-3


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_as_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    settings = dataclasses.replace(ADAM, name=name.lower())
    phi = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    decay = settings.weight_decay
    theirs = getattr(torch.optim, name)(phi.values(), lr=1.0, eps=settings.epsilon, weight_decay=decay)
    for gradient, rate in zip(gradients(), rates(settings), strict=True):
        theirs.param_groups[0]["lr"] = rate
        for k, parameter in phi.items():
            parameter.grad = torch.tensor(gradient[k])
        theirs.step()
    assert_close(run(settings), {k: v.detach().numpy() for k, v in phi.items()})


def test_momentum_is_of_sgd_alone_and_epsilon_of_adam():
    for name, field in (("adam", "momentum"), ("adamw", "momentum"), ("sgd", "epsilon")):
        settings = dataclasses.replace(RELEASED, name=name)
        assert_close(run(settings), run(dataclasses.replace(settings, **{field: 0.5})))


def test_a_cosine_goes_by_steps_and_a_constant_stays():
    cosine = optim.schedule(Optim(schedule="cosine", lr=0.2, warmup_lr=7.0), Length(10, 3))
    expected = [0.1 * (1 + math.cos(math.pi * step / 30)) for step in range(31)]
    np.testing.assert_allclose([float(cosine(step)) for step in range(31)], expected, rtol=1e-5, atol=1e-8)
    constant = optim.schedule(Optim(schedule="constant", lr=0.2, warmup_lr=7.0), Length(10, 3))
    assert {float(constant(step)) for step in range(31)} == {0.2}


def test_schedule_is_constant_within_an_epoch():
    """Warm-up, then a cosine that starts at lr and would reach 0 one epoch after the last."""
    rate = optim.schedule(Optim(lr=0.2, warmup_lr=0.003), Length(10, 3))
    values = np.array([float(rate(step)) for step in range(30)]).reshape(10, 3)
    assert (values == values[:, :1]).all()
    expected = [0.003] + [0.1 * (1 + math.cos(math.pi * e / 10)) for e in range(9)]
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(("steps", "per_epoch"), [(1200, 7), (5, 31), (300, 1)])
def test_a_cosine_ends_at_the_last_step_of_an_epoch_that_ends_early(steps, per_epoch):
    rate = optim.schedule(Optim(schedule="cosine", lr=0.2), Length(np.float32(steps / per_epoch), per_epoch))
    expected = [0.1 * (1 + math.cos(math.pi * step / steps)) for step in range(steps + 1)]
    np.testing.assert_allclose([float(x) for x in rate(np.arange(steps + 1))], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("steps", [1, 7, 1200, 8000, 999_983])
@pytest.mark.parametrize("per_epoch", [1, 7, 31, 50_000])
def test_a_length_has_whole_steps(steps, per_epoch):
    """Though epochs are rounded to 24 binary digits."""
    assert Length(np.float32(steps / per_epoch), np.int32(per_epoch)).steps == steps


def test_epochs_count_unless_they_are_none():
    assert optim.num_steps(epochs=20, per_epoch=7, steps_per_shot=300, shots=4) == 140
    assert optim.num_steps(epochs=0, per_epoch=7, steps_per_shot=300, shots=4) == 1200


def test_one_epoch_is_all_warm_up():
    rate = optim.schedule(Optim(), Length(1, 4))
    assert [float(rate(step)) for step in range(4)] == [np.float32(1e-5)] * 4


def test_schedule_may_be_traced():
    rate = optim.schedule(RELEASED, LENGTH)
    np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(STEPS)), rates(RELEASED), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_numbers_of_an_optimiser_may_be_traced(name):
    """Lanes of one compiled step differ in all but the words."""
    lanes = [
        (dataclasses.replace(RELEASED, name=name, lr=lr), Length(epochs, STEPS_PER_EPOCH))
        for lr, epochs in ((0.1, 4.0), (0.3, 2.5))
    ]
    settings, lengths = jax.tree.map(lambda *x: jnp.stack(x), *lanes)
    assert (settings.name, settings.schedule) == (name, "released")
    both = jax.vmap(run)(settings, lengths)
    for lane, one in enumerate(lanes):
        assert_close(jax.tree.map(lambda x, i=lane: x[i], both), run(*one))
