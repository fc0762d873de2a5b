"""The forward pass: where noise goes, and where it never goes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_clips

from pini_jax.clip import architecture
from pini_jax.clip.prompts import build, pack
from pini_jax.clip.resnet import ResNetTower
from pini_jax.clip.zero_shot import cosine_logits, embed_prompts, encode_classes, encode_prompts
from pini_jax.core.errors import InputError
from pini_jax.data.support import Support
from pini_jax.methods import forward as stages
from pini_jax.methods.method import Batch, Text, Variables
from pini_jax.methods.objective import Objective, objective
from pini_jax.methods.pini import Injector
from pini_jax.methods.zero_shot import ZeroShot
from pini_jax.noise import generators, sites
from pini_jax.noise.draws import draw_batch, draw_fresh, draw_replay

KEY = jax.random.key(0)
BATCH, CLASSES = 5, len(tiny_clips.NAMES)


@pytest.fixture(scope="module")
def features(clip):
    return np.random.default_rng(0).standard_normal((BATCH, clip.embed_dim), np.float32)


@pytest.fixture(scope="module")
def phi(injector, clip, text):
    return tiny_clips.init(injector, KEY, clip.theta, text).phi


def test_init_makes_the_trainables_of_every_site(injector, phi, clip, prompts, text):
    width, embed_dim = clip.text_tower.sizes.transformer.width, clip.embed_dim
    shapes = jax.tree.map(jnp.shape, phi)
    assert shapes["prompt_tokens"] == dict.fromkeys(("mean", "scale"), (len(prompts.prefix), width))
    assert shapes["image_features"]["query"]["kernel"] == (embed_dim, embed_dim // 2)
    assert set(phi) == set(tiny_clips.NOISE)
    other = tiny_clips.init(injector, jax.random.key(1), clip.theta, text)
    assert other.buffers == {}
    assert (other.phi["prompt_tokens"]["mean"] != phi["prompt_tokens"]["mean"]).all()


@pytest.fixture(scope="module")
def normals(phi, clip):
    """Two draws of the text, and three of every image for each of them."""
    rng = np.random.default_rng(1)
    return {
        "prompt_tokens": rng.standard_normal((2, 1, *phi["prompt_tokens"]["mean"].shape), np.float32),
        "image_features": rng.standard_normal((3, 2, BATCH, clip.embed_dim), np.float32),
    }


@pytest.fixture(scope="module")
def forward(injector, phi, clip, text):
    """(features, normals) -> logits."""
    compiled = jax.jit(lambda *inputs: stages.forward(injector, *inputs[:4], draw_replay(inputs[4]))[0])
    return lambda features, normals: np.asarray(compiled(Variables(phi), clip.theta, text, features, normals))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (1, 4), (2, 5)])
def test_logits_are_draws_of_images_by_draws_of_text(injector, phi, clip, text, features, n, k):
    draw = draw_fresh(KEY, {"image_features": n, "prompt_tokens": k})

    def forward(phi):
        return stages.forward(injector, Variables(phi), clip.theta, text, features, draw)

    logits, buffers = jax.eval_shape(forward, phi)
    assert buffers == {}
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
    tokens = tiny_clips.run_stage(tower, "embed", theta, np.stack([ids, ids])).at[:, :, 1 : 1 + p].add(noise)
    tokens = tiny_clips.run_stage(tower, "encode", theta, tokens)
    at_end = tokens[:, np.arange(CLASSES), 1 + p + ends(prompts)]
    text = tiny_clips.run_stage(tower, "project", theta, at_end)
    seen = generators.Inputs(features[None, None], features.shape[1:], text)
    mean, scale, *_ = generators.CrossAttention(reduction=2).apply({"params": phi["image_features"]}, seen)
    images, text = np.asarray(features + mean + scale * normals["image_features"]), np.asarray(text)
    for n, k in np.ndindex(3, 2):
        lengths = np.linalg.norm(images[n, k], axis=1)[:, None] * np.linalg.norm(text[k], axis=1)
        cosine = images[n, k] @ text[k].T / lengths
        np.testing.assert_allclose(logits[n, k], np.exp(clip.theta["logit_scale"]) * cosine, atol=2e-5)


def test_prompt_noise_touches_neither_start_token_nor_suffix(injector, phi, clip, text):
    plain_prefix, plain_suffix = embed_prompts(clip.text_tower, clip.theta, text.prompts)
    large = Variables(jax.tree.map(lambda x: x + 100, phi))
    prefix, suffix = injector.prompt_tokens(large, clip.theta, text, draw_fresh(KEY, {"prompt_tokens": 3}))
    np.testing.assert_array_equal(suffix, plain_suffix)
    np.testing.assert_array_equal(prefix[:, 0], np.repeat(plain_prefix[:, 0], 3, axis=0))
    assert (np.abs(prefix[:, 1:] - plain_prefix[:, 1:]) > 1e-3).all()


def test_tokens_stand_at_their_own_positions(clip, prompts):
    """The suffix goes on where the prefix ends."""
    prefix, suffix = embed_prompts(clip.text_tower, clip.theta, prompts)
    theta = clip.theta["text"]
    for c, ids in enumerate(whole(prompts)):
        expected = np.asarray(theta["token"]["embedding"])[ids] + np.asarray(theta["position"])[: len(ids)]
        np.testing.assert_allclose(np.concatenate([prefix[0], suffix[c]]), expected, atol=1e-6)


@pytest.fixture(scope="module")
def zero_shot(clip, text, features):
    return jax.jit(stages.forward, static_argnums=0)(
        Injector(clip.text_tower), Variables({}), clip.theta, text, features
    )[0]


def test_without_generators_it_is_zero_shot_clip(zero_shot, clip, prompts, text, features):
    end = 1 + len(prompts.prefix) + ends(prompts)
    encoded = tiny_clips.run_stage(clip.text_tower, "__call__", clip.theta["text"], whole(prompts), end)
    expected = cosine_logits(clip.theta, features[None, None], encoded[None])
    plain, _ = stages.forward(ZeroShot(clip.text_tower), Variables({}), clip.theta, Text(encoded[None]), features)
    np.testing.assert_allclose(plain, expected, atol=2e-5)
    assert zero_shot.shape == (1, 1, BATCH, CLASSES)
    np.testing.assert_allclose(zero_shot, expected, atol=2e-5)


@pytest.mark.parametrize(("site", "lead"), [("prompt_tokens", (1, 3)), ("image_features", (2, 1))])
def test_a_site_may_be_alone(phi, clip, text, features, zero_shot, site, lead):
    injector = Injector(clip.text_tower, sites.build_noise({site: tiny_clips.NOISE[site]}))
    assert set(jax.eval_shape(injector.init, KEY, clip.theta, text).phi) == {site}
    draw = draw_fresh(KEY, {"image_features": 2, "prompt_tokens": 3})
    forward = jax.jit(lambda phi: stages.forward(injector, Variables(phi), clip.theta, text, features, draw)[0])
    logits = forward({site: phi[site]})
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
    injector = Injector(tower, sites.build_noise({"prompt_tokens": tiny_clips.NOISE["prompt_tokens"]}))
    text = Text(encode_classes(tower, clip.theta, prompts), prompts)
    variables, theta, p = injector.init(KEY, clip.theta, text), clip.theta["text"], len(prompts.prefix)
    table = variables.phi["prompt_tokens"]
    assert table["mean"].shape == (3, tower.sizes.transformer.width) and p == 3
    normals = np.random.default_rng(3).standard_normal((2, 1, *table["mean"].shape), np.float32)
    ours = stages.encode_text(injector, variables, clip.theta, text, draw_replay({"prompt_tokens": normals}))

    ids, noise = whole(prompts), table["mean"] + table["scale"] * normals
    assert ids.shape == (CLASSES, tower.sizes.context_length)
    tokens = tiny_clips.run_stage(tower, "embed", theta, np.stack([ids, ids])).at[:, :, :p].add(noise)
    tokens = tiny_clips.run_stage(tower, "encode", theta, tokens)
    last = tiny_clips.run_stage(tower, "project", theta, tokens[:, :, -1])
    np.testing.assert_allclose(ours, last, atol=2e-5)


@pytest.mark.parametrize("template", ["{}", "{} x"])
def test_prompt_noise_needs_a_token_for_it(injector, clip, template):
    """The start token is none."""
    prompts = build(clip.tokenizer, template, tiny_clips.NAMES, clip.text_tower.sizes)
    with pytest.raises(InputError, match="nothing before {}"):
        injector.init(KEY, clip.theta, Text(np.zeros((1, CLASSES, clip.embed_dim)), prompts))


def test_encode_prompts_keeps_draws_apart(clip, prompts):
    prefix, suffix = embed_prompts(clip.text_tower, clip.theta, prompts)
    other = prefix + 0.1 * jax.random.normal(KEY, prefix.shape)
    encode = jax.jit(encode_prompts, static_argnums=0)
    both = encode(clip.text_tower, clip.theta, jnp.concatenate([prefix, other]), suffix, prompts)
    alone = encode(clip.text_tower, clip.theta, other, suffix, prompts)
    assert both.shape == (2, CLASSES, clip.embed_dim)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_packed_prompts_have_the_same_features_and_gradients(injector, phi, clip, text, features, normals):
    """Several classes in a row, with several draws of the prefix, kept or computed again on the way back."""

    def loss(tower, prompts):
        one = dataclasses.replace(injector, text_tower=tower)

        def of(phi):
            classes = text._replace(prompts=prompts)
            logits, _ = stages.forward(one, Variables(phi), clip.theta, classes, features, draw_replay(normals))
            return (logits**2).mean(), logits

        return jax.jit(jax.value_and_grad(of, has_aux=True))(phi)

    prompts = text.prompts
    (_, expected), gradient = loss(clip.text_tower, prompts)
    packed = pack(prompts)
    assert len(packed.suffix) < CLASSES and packed.suffix.size < prompts.suffix.size
    for tower in (clip.text_tower, clip.text_tower.clone(remat=True)):
        (_, logits), ours = loss(tower, packed)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, gradient)


def test_many_rows_are_encoded_in_parts(injector, phi, clip, text, features, normals, monkeypatch):
    """Of two rows, the last of which is filled up."""

    def loss(phi):
        logits, _ = stages.forward(injector, Variables(phi), clip.theta, text, features, draw_replay(normals))
        return (logits**2).mean(), logits

    gradient = jax.value_and_grad(loss, has_aux=True)
    (_, expected), whole = jax.jit(gradient)(phi)
    monkeypatch.setattr("pini_jax.clip.zero_shot.ROWS_AT_ONCE", 2)
    (_, logits), parts = jax.jit(lambda phi: gradient(phi))(phi)
    assert len(text.prompts.suffix) == 3
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parts, whole)


def test_classes_may_have_prefixes_of_their_own(clip, prompts):
    """Where noise is drawn per class, whole sequences run, up to the longest one's end."""
    prefix, suffix = embed_prompts(clip.text_tower, clip.theta, prompts)
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


# ------------------------------------------------------------------------------------------------ every site

PLACES = [(name, kind) for name, site in sites.SITES.items() for kind in site.generators]
EVERYWHERE = {
    "prompt_tokens": {"generator": "mlp"},
    "text_features": {"generator": "mlp"},
    "pixels": {"generator": "cross_attention"},
    "patch_tokens": {"generator": "cross_attention"},
    "image_features": {"generator": "cross_attention"},
}
LABELS = np.array([0, 1, 2, 0, 1], np.int32)


@pytest.fixture(scope="module")
def pixels(clip):
    side = clip.image_tower.sizes.image_size
    return np.random.default_rng(3).standard_normal((BATCH, side, side, 3), np.float32)


@pytest.fixture(scope="module")
def learn(clip, text, features, pixels):
    """(noise, k) -> the loss by random parameters, its gradient, and the buffers before and after."""

    def shapes(injector):
        support = Support(features[None], LABELS)
        return jax.eval_shape(lambda key: injector.init(key, clip.theta, given(injector, text), support), KEY)

    def learn(noise, num_samples=1):
        injector = Injector(clip.text_tower, sites.build_noise(noise), image_tower=clip.image_tower)
        variables = tiny_clips.random(shapes(injector))
        batch = Batch(
            pixels if injector.traits.reads == "pixels" else features, LABELS, np.ones(BATCH, np.float32)
        )

        def loss(phi):
            draw = draw_batch(KEY, BATCH, injector.num_draws(num_samples))
            before = Variables(phi, variables.buffers)
            parts, after = stages.loss(injector, before, clip.theta, given(injector, text), batch, draw)
            return parts.loss, after

        (value, after), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables.phi)
        return value, gradient, variables.buffers, after

    return learn


def given(injector, text):
    """What a run gives it of the classes."""
    return text if injector.traits.encodes_prompts else Text(text.features)


def assert_all_learn(gradient):
    """A constant that is added to every key moves all scores of a query alike, and so does nothing."""
    for path, leaf in jax.tree.leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert "['key']['bias']" in name or np.abs(leaf).max() > 1e-7, name


@pytest.mark.parametrize(("site", "name"), PLACES)
def test_every_generator_learns_at_every_site(learn, site, name):
    value, gradient, before, after = learn({site: {"generator": name}})
    assert np.isfinite(value) and set(gradient) == {site}
    assert_all_learn(gradient)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, before, after)
    assert set(before) == ({site} if name in ("conv", "residual", "discriminant") else set())
    assert all(jax.tree.leaves(moved)) if name == "conv" else not any(jax.tree.leaves(moved))


def test_a_site_of_one_s_own_at_the_pixels_learns_as_theirs_does(learn, monkeypatch):
    own = dataclasses.replace(sites.SITES["pixels"], name="glare", stage="pixels")
    monkeypatch.setitem(sites.SITES, "glare", own)
    value, gradient, *_ = learn({"glare": {"generator": "cross_attention", "control": "mean_only"}})
    wanted, theirs, *_ = learn({"pixels": {"generator": "cross_attention", "control": "mean_only"}})
    assert value == wanted and set(gradient) == {"glare"}
    jax.tree.map(np.testing.assert_array_equal, gradient["glare"], theirs["pixels"])
    assert_all_learn(gradient)


def test_all_sites_learn_together(learn):
    value, gradient, before, after = learn(EVERYWHERE, num_samples=2)
    assert np.isfinite(value) and set(gradient) == set(EVERYWHERE)
    assert_all_learn(gradient)
    assert before == after == {}


@pytest.mark.parametrize("noise", [*({site: {"generator": name}} for site, name in PLACES), EVERYWHERE], ids=str)
def test_num_samples_are_drawn_once(clip, text, features, pixels, noise):
    """Of the text features, or else of the first site of the images; the prompt's noise is one draw."""
    injector = Injector(clip.text_tower, sites.build_noise(noise), image_tower=clip.image_tower)
    assert_shape(injector, clip.theta, given(injector, text), features, pixels, num_samples=3)


def test_one_sample_is_one_draw_of_everything(clip, text, features, pixels):
    injector = Injector(clip.text_tower, sites.build_noise(EVERYWHERE), image_tower=clip.image_tower)
    assert_shape(injector, clip.theta, text, features, pixels, num_samples=1)


def assert_shape(injector, theta, text, features, pixels, num_samples):
    support = Support(features[None], LABELS)
    variables = jax.eval_shape(lambda key: injector.init(key, theta, text, support), KEY)
    images = pixels if injector.traits.reads == "pixels" else features
    draw = draw_batch(KEY, len(images), injector.num_draws(num_samples))
    logits, _ = jax.eval_shape(lambda v: stages.forward(injector, v, theta, text, images, draw), variables)
    lead = (num_samples, 1)
    if "text_features" in injector.generators:
        lead = (1, num_samples)
    elif set(injector.generators) == {"prompt_tokens"}:
        lead = (1, 1)
    assert logits.shape == (*lead, len(images), CLASSES)


@pytest.fixture(scope="module")
def residual(clip):
    """A residual image tower in the same joint space: the tower, and theta."""
    tower = ResNetTower(architecture.ResNet(32, 8, (1, 1, 1, 1), 4), clip.embed_dim)
    shapes = jax.eval_shape(lambda key: tower.init(key, np.zeros((1, 32, 32, 3), np.float32)), KEY)
    return tower, {**clip.theta, "image": tiny_clips.random(shapes)["params"]}


@pytest.mark.parametrize(("site", "name"), [x for x in PLACES if x[0] in ("pixels", "patch_tokens")])
def test_noise_of_a_residual_tower_s_images(residual, text, features, site, name):
    tower, theta = residual
    injector = Injector(generators=sites.build_noise({site: {"generator": name}}), image_tower=tower)
    assert_shape(injector, theta, Text(text.features), features, np.zeros((BATCH, 32, 32, 3)), num_samples=3)


def test_places_of_a_residual_tower_ask_for_their_squares(residual, text):
    """One of its 8 x 8 places sees 7 pixels around it, and its noise falls on 4 x 4 of them."""
    tower, theta = residual
    noise = {"pixels": {"generator": "cross_attention", "control": "mean_only"}}
    injector = Injector(generators=sites.build_noise(noise), image_tower=tower)
    shapes = jax.eval_shape(lambda key: injector.init(key, theta, Text(text.features)), KEY)
    variables = tiny_clips.random(shapes)

    @jax.jit
    def noise_of(pixels):
        found = []

        def watched(site, gaussian):
            found.append(gaussian.mean[0, 0, 0])
            return gaussian.mean

        injector.encode_images(variables, theta, text.features, pixels, watched)
        return found[0]

    image = np.random.default_rng(4).standard_normal((1, 32, 32, 3), np.float32)
    other = image + np.eye(32, dtype=np.float32)[0][:, None, None]
    changed = np.abs(noise_of(other) - noise_of(image)).max(axis=(1, 2)) > 1e-6
    assert changed[:8].all() and not changed[8:].any()


def test_noise_is_added_before_the_patches_and_behind_their_first_norm(clip, text, pixels):
    noise = {"pixels": {"generator": "cross_attention"}, "patch_tokens": {"generator": "mlp"}}
    injector, theta = Injector(None, sites.build_noise(noise), image_tower=clip.image_tower), clip.theta
    shapes = jax.eval_shape(lambda key: injector.init(key, theta, Text(text.features)), KEY)
    variables = tiny_clips.random(shapes)

    @jax.jit
    def encode(pixels):
        """Features, and what was drawn, in the order of the sites."""
        drawn, fresh = [], draw_batch(KEY, BATCH, injector.num_draws(2))

        def watched(site, gaussian):
            drawn.append((site, fresh(site, gaussian)))
            return drawn[-1][1]

        found, _ = injector.encode_images(variables, theta, text.features, pixels, watched)
        assert [site for site, _ in drawn] == ["pixels", "patch_tokens"]
        return found, dict(drawn)

    found, drawn = encode(pixels)
    assert found.shape == (2, 1, BATCH, clip.embed_dim)
    for n in range(2):
        tower, own = clip.image_tower, theta["image"]
        tokens = tiny_clips.run_stage(tower, "embed", own, pixels + drawn["pixels"][n, 0])
        tokens = tiny_clips.run_stage(tower, "encode", own, tokens + drawn["patch_tokens"][n, 0])
        expected = tiny_clips.run_stage(tower, "project", own, tokens)
        np.testing.assert_allclose(found[n, 0], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(drawn["pixels"]).min() > 0 and np.abs(drawn["patch_tokens"]).min() > 0


def test_text_noise_is_drawn_for_all_images(clip, text, features):
    """Added to what the text tower makes, before anything is normalised."""
    injector = Injector(clip.text_tower, sites.build_noise({"text_features": {"generator": "table"}}))
    chance = np.random.default_rng(5)
    mean, scale = chance.standard_normal((2, CLASSES, clip.embed_dim), np.float32)
    normals = chance.standard_normal((2, 1, CLASSES, clip.embed_dim), np.float32)
    variables = Variables({"text_features": {"mean": mean, "scale": scale}})
    draw = draw_replay({"text_features": normals})
    logits, _ = stages.forward(injector, variables, clip.theta, Text(text.features), features, draw)
    noised = text.features + mean + scale * normals[:, 0]
    np.testing.assert_allclose(logits, cosine_logits(clip.theta, features[None, None], noised), atol=1e-5)
    assert logits.shape == (1, 2, BATCH, CLASSES)


# What it reads; and whether it is fitted, of its classes alone, random, and moves images.
KINDS = [
    ({"prompt_tokens": {"generator": "table"}}, {"prompts"}, (False, False, True, False)),
    ({"text_features": {"generator": "table"}}, set(), (False, True, True, False)),
    ({"text_features": {"generator": "mlp"}}, set(), (False, False, True, False)),
    ({"image_features": {"generator": "mlp"}}, set(), (False, False, True, True)),
    ({"image_features": {"generator": "mlp", "control": "mean_only"}}, set(), (False, False, False, True)),
    ({"image_features": {"generator": "mlp", "control": "scale_only"}}, set(), (False, False, True, False)),
    ({"image_features": {"generator": "mlp", "control": "random"}}, set(), (True, False, True, False)),
    (
        {"pixels": {"generator": "conv"}, "patch_tokens": {"generator": "mlp"}},
        {"pixels"},
        (False, False, True, True),
    ),
    (EVERYWHERE, {"prompts", "pixels"}, (False, False, True, True)),
]


@pytest.mark.parametrize(("noise", "needs", "properties"), KINDS, ids=range(len(KINDS)))
def test_what_follows_from_the_noise(noise, needs, properties):
    injector = Injector(generators=sites.build_noise(noise))
    traits = injector.traits
    assert (traits.is_fitted, traits.is_per_class, traits.is_random, traits.moves_images) == properties
    assert tiny_clips.needs(injector) == needs


# ------------------------------------------------------------------------------------------------ divergence


def test_the_divergence_from_the_prior_is_in_the_loss(injector, forward, phi, clip, text, features, normals):
    """By hand: once for what is shared, in the mean over draws of the text and images that count for the rest."""
    weights, scale, settings = np.array([1, 1, 1, 0, 0], np.float32), 0.5, Objective(kl_weight=0.25, kl_scale=0.5)
    weighted, draw = dataclasses.replace(injector, loss_settings=settings), draw_replay(normals)

    @jax.jit
    def loss(images):
        """And the noise."""
        found = {}

        def watched(site, gaussian):
            found[site] = gaussian
            return draw(site, gaussian)

        batch = Batch(images, LABELS, weights)
        return stages.loss(weighted, Variables(phi), clip.theta, text, batch, watched)[0].loss, found

    value, found = loss(features)
    plain, nats = objective(forward(features, normals), LABELS, weights).loss, {}
    for site, (mean, sigma, *_) in found.items():
        mean, variance = np.float64(mean), np.float64(sigma) ** 2
        nats[site] = np.log(scale) - np.log(variance) / 2 + (variance + mean**2) / (2 * scale**2) - 0.5
    expected = nats["prompt_tokens"].sum() + nats["image_features"][:, :, :3].sum(-1).mean()
    assert float(value - plain) == pytest.approx(0.25 * expected, rel=1e-4)
    other = np.concatenate([features[:3], 5 * features[3:]])
    assert float(loss(other)[0]) == pytest.approx(float(value), rel=1e-6)
