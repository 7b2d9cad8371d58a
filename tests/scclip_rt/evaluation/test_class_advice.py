"""What words and images say about a class list."""

import numpy as np
import pytest

from scclip_rt import Segmenter
from scclip_rt.demo.scenes import tuning_scene
from scclip_rt.errors import OptionError
from scclip_rt.evaluation.class_advice import advise, nearest_pairs
from scclip_rt.evaluation.class_use import ClassUse, class_use
from scclip_rt.evaluation.template_choice import choose_templates, template_entropies
from scclip_rt.vocabulary.embedding import embed_each_template
from scclip_rt.vocabulary.file import Vocabulary
from scclip_rt.vocabulary.open import TextTower
from scclip_rt.vocabulary.templates import load_templates


def vocabulary(angles: list[float], owners: list[int], background: int | None = None) -> Vocabulary:
    """Names at angles, in degrees: their cosines are known."""
    rows = np.stack([[np.cos(a), np.sin(a)] for a in np.radians(angles)]).astype(np.float32)
    return Vocabulary(
        embeddings=rows,
        classes=tuple(f"class {owner}" for owner in range(max(owners) + 1)),
        queries=tuple(f"name {index}" for index in range(len(angles))),
        query_class=np.array(owners),
        background=background,
        templates="none",
        text_model_sha256="ab" * 32,
    )


def use(patches: list[int], contested: dict[tuple[int, int], int], seen: list[int] | None = None) -> ClassUse:
    matrix = np.zeros((len(patches),) * 2, np.int64)
    for place, count in contested.items():
        matrix[place] = count
    return ClassUse(
        images=3,
        shares=np.array(patches) / sum(patches),
        seen=np.array(seen if seen is not None else np.sign(patches)),
        best=np.ones(len(patches), np.float32),
        patches=np.array(patches),
        contested=matrix,
        unsure=0.0,
        unlabelled=0.0,
    )


def test_the_nearest_names_of_two_classes_stand_for_them() -> None:
    pairs = nearest_pairs(vocabulary([0, 40, 45, 90], [0, 1, 1, 2]))
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (1, 2), (0, 2)]
    assert pairs[0].names == ("name 0", "name 1")
    assert pairs[0].cosine == pytest.approx(np.cos(np.radians(40)), abs=1e-6)
    assert pairs[0].mixed is None


def test_near_names_are_merged_and_the_background_is_not() -> None:
    words = vocabulary([0, 5, 60, 62], [0, 1, 2, 3], background=3)
    advice = advise(words, nearest_pairs(words))
    assert advice.classes == (("name 0", "name 1"), ("name 2",), ("name 3",))
    assert advice.background == 2
    assert advice.unused == ()


def test_images_decide_which_near_classes_are_merged_and_which_name_comes_first() -> None:
    words = vocabulary([0, 5, 60, 64, 120], [0, 1, 2, 3, 4])
    found = use([10, 50, 40, 40, 20], {(0, 1): 9, (2, 3): 1})
    pairs = nearest_pairs(words, found)
    advice = advise(words, pairs, found)
    assert [(pair.first, pair.second) for pair in advice.merged] == [(1, 0)]
    assert advice.classes == (("name 1", "name 0"), ("name 2",), ("name 3",), ("name 4",))
    assert advise(words, pairs, found, mixed=0.02).classes[1] == ("name 2", "name 3")


def test_a_class_that_no_image_picks_is_left_out_unless_it_is_merged() -> None:
    words = vocabulary([0, 5, 60, 120], [0, 1, 2, 3], background=3)
    found = use([40, 0, 0, 0], {(0, 1): 30})
    advice = advise(words, nearest_pairs(words, found), found)
    assert advice.classes == (("name 0", "name 1"), ("name 3",))  # nor is the background
    assert advice.unused == (2,)


def test_contested_patches_are_counted_against_the_rarer_class() -> None:
    found = use([100, 10], {(0, 1): 5, (1, 0): 4})
    assert found.mixed(0, 1) == found.mixed(1, 0) == (5 + 4) / (10 + 5)


@pytest.fixture(scope="module")
def segment() -> Segmenter:
    return Segmenter("demo", classes="grass; lawn; sky; snow; tiger", cache=False, threads=1)


def test_images_tell_synonyms_apart_from_other_classes(segment: Segmenter) -> None:
    scenes = [tuning_scene(index) for index in range(3)]
    found = class_use(segment, [scene.image for scene in scenes])
    assert found.images == 3
    assert found.shares.sum() + found.unlabelled == pytest.approx(1.0)
    given = [segment(scene.image).shares() for scene in scenes]
    for index, name in enumerate(segment.vocabulary.classes):
        assert found.seen[index] == sum(shares.get(name, 0) > 0 for shares in given)
    advice = advise(segment.vocabulary, nearest_pairs(segment.vocabulary, found), found)
    assert set(advice.classes[0]) == {"grass", "lawn"}


def test_no_images_are_refused(segment: Segmenter) -> None:
    with pytest.raises(OptionError, match="no images"):
        class_use(segment, [])
    with pytest.raises(OptionError, match="no images"):
        template_entropies(segment, segment.vocabulary.embeddings[None], [])


def test_each_class_keeps_its_templates_of_least_entropy(segment: Segmenter) -> None:
    tower = TextTower(segment.bundle, threads=1)
    templates = load_templates("imagenet")
    names = segment.vocabulary.queries
    single = embed_each_template(names, tower.prompts, tower.tokenizer, templates)
    mean = single.astype(np.float64).sum(axis=0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(mean, segment.vocabulary.embeddings, atol=1e-6)  # of all templates
    entropies = np.full((80, 5), 2.0)
    entropies[[3, 7], 0] = 0.5
    entropies[:, 1] = np.inf  # no template gives this class to a patch
    chosen = choose_templates(segment.vocabulary, single, entropies, 2)
    expected = single[3, 0] + single[7, 0]
    np.testing.assert_allclose(chosen.embeddings[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_array_equal(chosen.embeddings[1], segment.vocabulary.embeddings[1])
    assert chosen.templates == "imagenet, the 2 of least entropy for each class"
    for count in (0, 81):
        with pytest.raises(OptionError, match="from 1 to 80"):
            choose_templates(segment.vocabulary, single, entropies, count)


def test_entropy_is_that_of_the_patches_a_template_gives_to_a_class(segment: Segmenter) -> None:
    image = tuning_scene(0).image
    first = segment.vocabulary.embeddings
    swapped = first[[1, 0, 2, 3, 4]]
    found = template_entropies(segment, np.stack([first, swapped]), [image])
    np.testing.assert_allclose(found[0], found[1][[1, 0, 2, 3, 4]], rtol=1e-5)
    scale, features = segment.options.logit_scale, segment.encode(image).features.reshape(-1, first.shape[1])
    logits = scale * features.astype(np.float64) @ first.astype(np.float64).T
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    entropy = -(weights * np.log(weights)).sum(axis=1)
    for index in np.unique(weights.argmax(axis=1)):
        expected = entropy[weights.argmax(axis=1) == index].mean()
        assert found[0, index] == pytest.approx(expected, rel=1e-3)
