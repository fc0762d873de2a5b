"""The forward pass: where noise goes, and where it never goes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips

from pini_jax.data.prompts import build, pack
from pini_jax.errors import InputError
from pini_jax.noise import generators
from pini_jax.noise.gaussian import draw_fresh, draw_replay
from pini_jax.noise.injector import Injector, cosine_logits, encode_prompts

KEY = jax.random.key(0)
BATCH, CLASSES = 5, len(tiny_clips.NAMES)


@pytest.fixture(scope="module")
def features(clip):
    return np.random.default_rng(0).standard_normal((BATCH, clip.embed_dim), np.float32)


@pytest.fixture(scope="module")
def phi(injector, clip, prompts):
    return tiny_clips.init(injector, KEY, prompts)


def test_init_makes_the_trainables_of_every_site(injector, phi, clip, prompts):
    width, embed_dim = clip.text_tower.sizes.transformer.width, clip.embed_dim
    shapes = jax.tree.map(jnp.shape, phi)
    assert shapes["prompt_tokens"] == dict.fromkeys(("mean", "scale"), (len(prompts.prefix), width))
    assert shapes["image_features"]["query"]["kernel"] == (embed_dim, embed_dim // 2)
    assert set(phi) == set(tiny_clips.NOISE)
    other = tiny_clips.init(injector, jax.random.key(1), prompts)
    assert (other["prompt_tokens"]["mean"] != phi["prompt_tokens"]["mean"]).all()


@pytest.fixture(scope="module")
def normals(phi, clip):
    """Two draws of the text, and three of every image for each of them."""
    rng = np.random.default_rng(1)
    return {
        "prompt_tokens": rng.standard_normal((2, *phi["prompt_tokens"]["mean"].shape), np.float32),
        "image_features": rng.standard_normal((3, 2, BATCH, clip.embed_dim), np.float32),
    }


@pytest.fixture(scope="module")
def forward(injector, phi, clip, prompts):
    """(features, normals) -> logits."""
    compiled = jax.jit(lambda *inputs: injector.logits(*inputs[:4], draw_replay(inputs[4])))
    return lambda features, normals: np.asarray(compiled(phi, clip.theta, prompts, features, normals))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (1, 4), (2, 5)])
def test_logits_are_draws_of_images_by_draws_of_text(injector, phi, clip, prompts, features, n, k):
    draw = draw_fresh(KEY, {"image_features": n, "prompt_tokens": k})
    logits = jax.eval_shape(lambda phi: injector.logits(phi, clip.theta, prompts, features, draw), phi)
    assert logits.shape == (n, k, BATCH, CLASSES) and logits.dtype == jnp.float32


def whole(prompts):
    """Ids of whole sequences."""
    return np.array([[*prompts.start, *prompts.prefix, *suffix] for suffix in prompts.suffix])


def ends(prompts):
    """Places of the end tokens in the suffixes."""
    return prompts.end % prompts.suffix.shape[1]


def test_logits_by_hand(forward, phi, clip, prompts, features, normals):
    """Every pair of draws alone, with whole sequences, and cosines in numpy."""
    logits, p = forward(features, normals), len(prompts.prefix)
    ids = whole(prompts)
    tower, theta, table = clip.text_tower, clip.theta["text"], phi["prompt_tokens"]
    noise = table["mean"] + table["scale"] * normals["prompt_tokens"]
    tokens = (
        tiny_clips.run_stage(tower, "embed", theta, np.stack([ids, ids])).at[:, :, 1 : 1 + p].add(noise[:, None])
    )
    tokens = tiny_clips.run_stage(tower, "encode", theta, tokens)
    at_end = tokens[:, np.arange(CLASSES), 1 + p + ends(prompts)]
    text = tiny_clips.run_stage(tower, "project", theta, at_end)
    mean, scale = generators.CrossAttention(2).apply({"params": phi["image_features"]}, features, text)
    images, text = np.asarray(features + mean + scale * normals["image_features"]), np.asarray(text)
    for n, k in np.ndindex(3, 2):
        lengths = np.linalg.norm(images[n, k], axis=1)[:, None] * np.linalg.norm(text[k], axis=1)
        cosine = images[n, k] @ text[k].T / lengths
        np.testing.assert_allclose(logits[n, k], np.exp(clip.theta["logit_scale"]) * cosine, atol=2e-5)


def test_prompt_noise_touches_neither_start_token_nor_suffix(injector, phi, clip, prompts):
    plain_prefix, plain_suffix = Injector(clip.text_tower).prompt_tokens({}, clip.theta, prompts)
    large = jax.tree.map(lambda x: x + 100, phi)
    prefix, suffix = injector.prompt_tokens(large, clip.theta, prompts, draw_fresh(KEY, {"prompt_tokens": 3}))
    np.testing.assert_array_equal(suffix, plain_suffix)
    np.testing.assert_array_equal(prefix[:, 0], np.repeat(plain_prefix[:, 0], 3, axis=0))
    assert (np.abs(prefix[:, 1:] - plain_prefix[:, 1:]) > 1e-3).all()


def test_tokens_stand_at_their_own_positions(clip, prompts):
    """The suffix goes on where the prefix ends."""
    prefix, suffix = Injector(clip.text_tower).prompt_tokens({}, clip.theta, prompts)
    theta = clip.theta["text"]
    for c, ids in enumerate(whole(prompts)):
        expected = np.asarray(theta["token"]["embedding"])[ids] + np.asarray(theta["position"])[: len(ids)]
        np.testing.assert_allclose(np.concatenate([prefix[0], suffix[c]]), expected, atol=1e-6)


@pytest.fixture(scope="module")
def zero_shot(clip, prompts, features):
    return jax.jit(Injector(clip.text_tower).logits)({}, clip.theta, prompts, features)


def test_without_generators_it_is_zero_shot_clip(zero_shot, clip, prompts, features):
    end = 1 + len(prompts.prefix) + ends(prompts)
    text = tiny_clips.run_stage(clip.text_tower, "__call__", clip.theta["text"], whole(prompts), end)
    expected = cosine_logits(clip.theta, features[None, None], text[None])
    assert zero_shot.shape == (1, 1, BATCH, CLASSES)
    np.testing.assert_allclose(zero_shot, expected, atol=2e-5)


@pytest.mark.parametrize(("site", "lead"), [("prompt_tokens", (1, 3)), ("image_features", (2, 1))])
def test_a_site_may_be_alone(phi, clip, prompts, features, zero_shot, site, lead):
    injector = Injector(clip.text_tower, generators.build({site: tiny_clips.NOISE[site]}))
    assert set(jax.eval_shape(injector.init, KEY, prompts)) == {site}
    draw = draw_fresh(KEY, {"image_features": 2, "prompt_tokens": 3})
    logits = jax.jit(lambda phi: injector.logits(phi, clip.theta, prompts, features, draw))({site: phi[site]})
    assert logits.shape == (*lead, BATCH, CLASSES)
    assert (np.abs(logits - zero_shot) > 1e-6).mean() > 0.99


def test_images_do_not_meet(forward, features, normals):
    """Other images change no other image's logits."""
    changed = np.concatenate([features[:1], -features[1:]])
    before, after = forward(features, normals), forward(changed, normals)
    np.testing.assert_allclose(after[:, :, 0], before[:, :, 0], atol=1e-5)
    assert (np.abs(after - before)[:, :, 1:] > 1e-3).all()


@pytest.fixture(scope="module")
def bidirectional(clip):
    """The same text tower, where every token attends to every other, and prompts for it without a start token."""
    sizes = clip.text_tower.sizes
    everywhere = dataclasses.replace(sizes.transformer, causal=False)
    tower = clip.text_tower.clone(sizes=dataclasses.replace(sizes, transformer=everywhere, pool="last"))
    encode = clip.tokenizer.encode
    words = clip.tokenizer._replace(encode=lambda text: encode(text)[1:], start_ids=(), pad_id=3)
    return tower, build(words, "x x the {}.", tiny_clips.NAMES, tower.sizes)


def test_noise_of_bidirectional_text_by_hand(bidirectional, clip):
    """Whole sequences, with noise on all that comes before the names."""
    tower, prompts = bidirectional
    injector = Injector(tower, generators.build({"prompt_tokens": tiny_clips.NOISE["prompt_tokens"]}))
    phi, theta, p = injector.init(KEY, prompts), clip.theta["text"], len(prompts.prefix)
    table = phi["prompt_tokens"]
    assert table["mean"].shape == (3, tower.sizes.transformer.width) and p == 3
    normals = np.random.default_rng(3).standard_normal((2, *table["mean"].shape), np.float32)
    prefix, suffix = injector.prompt_tokens(phi, clip.theta, prompts, draw_replay({"prompt_tokens": normals}))
    text = jax.jit(encode_prompts, static_argnums=0)(tower, clip.theta, prefix, suffix, prompts)

    ids, noise = whole(prompts), table["mean"] + table["scale"] * normals
    assert ids.shape == (CLASSES, tower.sizes.context_length)
    tokens = tiny_clips.run_stage(tower, "embed", theta, np.stack([ids, ids])).at[:, :, :p].add(noise[:, None])
    tokens = tiny_clips.run_stage(tower, "encode", theta, tokens)
    last = tiny_clips.run_stage(tower, "project", theta, tokens[:, :, -1])
    np.testing.assert_allclose(text, last, atol=2e-5)


@pytest.mark.parametrize("template", ["{}", "{} x"])
def test_prompt_noise_needs_a_token_for_it(injector, clip, template):
    """The start token is none."""
    prompts = build(clip.tokenizer, template, tiny_clips.NAMES, clip.text_tower.sizes)
    with pytest.raises(InputError, match="nothing before {}"):
        injector.init(KEY, prompts)


def test_encode_prompts_keeps_draws_apart(clip, prompts):
    prefix, suffix = Injector(clip.text_tower).prompt_tokens({}, clip.theta, prompts)
    other = prefix + 0.1 * jax.random.normal(KEY, prefix.shape)
    encode = jax.jit(encode_prompts, static_argnums=0)
    both = encode(clip.text_tower, clip.theta, jnp.concatenate([prefix, other]), suffix, prompts)
    alone = encode(clip.text_tower, clip.theta, other, suffix, prompts)
    assert both.shape == (2, CLASSES, clip.embed_dim)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_packed_prompts_have_the_same_features_and_gradients(injector, phi, clip, prompts, features, normals):
    """Several classes in a row, with several draws of the prefix, kept or computed again on the way back."""

    def loss(tower, prompts):
        one = dataclasses.replace(injector, text_tower=tower)

        def of(phi):
            logits = one.logits(phi, clip.theta, prompts, features, draw_replay(normals))
            return (logits**2).mean(), logits

        return jax.jit(jax.value_and_grad(of, has_aux=True))(phi)

    (_, expected), gradient = loss(clip.text_tower, prompts)
    packed = pack(prompts)
    assert len(packed.suffix) < CLASSES and packed.suffix.size < prompts.suffix.size
    for tower in (clip.text_tower, clip.text_tower.clone(remat=True)):
        (_, logits), ours = loss(tower, packed)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, gradient)


def test_many_rows_are_encoded_in_parts(injector, phi, clip, prompts, features, normals, monkeypatch):
    """Of two rows, the last of which is filled up."""

    def loss(phi):
        logits = injector.logits(phi, clip.theta, prompts, features, draw_replay(normals))
        return (logits**2).mean(), logits

    gradient = jax.value_and_grad(loss, has_aux=True)
    (_, expected), whole = jax.jit(gradient)(phi)
    monkeypatch.setattr("pini_jax.noise.injector.ROWS_AT_ONCE", 2)
    (_, logits), parts = jax.jit(lambda phi: gradient(phi))(phi)
    assert len(prompts.suffix) == 3
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parts, whole)


def test_classes_may_have_prefixes_of_their_own(clip, prompts):
    """Where noise is drawn per class, whole sequences run, up to the longest one's end."""
    prefix, suffix = Injector(clip.text_tower).prompt_tokens({}, clip.theta, prompts)
    noise = jax.random.normal(KEY, (2, CLASSES, *prefix.shape[1:]))
    encode = jax.jit(encode_prompts, static_argnums=0)
    own = encode(clip.text_tower, clip.theta, prefix[:, None] + noise, suffix, prompts)
    for k, c in np.ndindex(2, CLASSES):
        alone = encode(clip.text_tower, clip.theta, prefix + noise[k, c], suffix, prompts)
        np.testing.assert_allclose(own[k, c], alone[0, c], atol=1e-5)


def test_cosines_ignore_lengths_and_stay_in_float32():
    rng = np.random.default_rng(2)
    images, text = rng.standard_normal((2, 1, 3, 4)), rng.standard_normal((1, 5, 4))
    logits = cosine_logits({"logit_scale": jnp.log(7.0)}, images, text)
    np.testing.assert_allclose(
        logits, cosine_logits({"logit_scale": jnp.log(7.0)}, 10 * images, 0.1 * text), rtol=1e-5
    )
    assert np.abs(logits).max() <= 7.0 * (1 + 1e-6)
    same = cosine_logits({"logit_scale": jnp.log(7.0)}, text[None, :, :1], text[:, :1])
    np.testing.assert_allclose(same, 7.0, rtol=1e-6)
