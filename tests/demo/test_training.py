from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def tiny(demo):
    model = demo.model.ModelConfig(
        width=24, blocks=3, heads=2, embedding=16, text_width=16, text_blocks=1, text_heads=2
    )
    stages = (
        demo.train.Stage(size=32, keep=3, batch=8, steps=1),
        demo.train.Stage(size=32, keep=4, batch=8, steps=2),
    )
    return demo.train.Recipe(model=model, stages=stages, scenes={32: 24}, warmup=1)


@pytest.fixture(scope="module")
def banks(demo, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    demo.data.render_bank(folder, 32, 24, workers=1)
    return {32: demo.data.SceneBank.open(folder, 32)}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_stopped_and_resumed_run_ends_in_the_identical_state(demo, tiny, banks, tmp_path, optimizer):
    recipe = replace(tiny, optimizer=optimizer)
    straight = demo.train.Trainer(recipe, banks)
    for _ in range(3):
        straight.train_step()

    stopped = demo.train.Trainer(recipe, banks)
    for _ in range(2):
        stopped.train_step()
    stopped.save(tmp_path / "checkpoint.pt")
    resumed = demo.train.Trainer(recipe, banks)
    resumed.load(tmp_path / "checkpoint.pt")
    resumed.train_step()

    assert resumed.step == straight.step == 3
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_training_changes_every_weight_but_untouched_rows(demo, tiny, banks):
    trainer = demo.train.Trainer(tiny, banks)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_step()
    after = trainer.model.state_dict()
    frozen = [name for name in before if torch.equal(before[name], after[name])]
    assert frozen in (["attn_mask"], [])


def test_captions_of_the_same_materials_share_the_target(demo):
    loss = demo.train.contrastive_loss
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    good = 50.0 * same.float()
    assert loss(good, same).item() == pytest.approx(2 / 3 * 0.6931, rel=1e-3)
    assert loss(good, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(
        loss(good, same).item(), rel=1e-3
    )


def test_fast_forwards_agree_with_open_clip(demo):
    tools = demo.model
    tokenizer = tools.demo_tokenizer()
    model = tools.build_model(
        tools.ModelConfig(width=48, blocks=2, heads=3, embedding=32, text_width=32, text_heads=2),
        tokenizer.size,
    ).eval()
    images = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    pixels = ((images.float() - torch.tensor(tools.MEAN)) / torch.tensor(tools.STD)).permute(0, 3, 1, 2)
    tokens = tokenizer(["a photo of brick and water", "grass"])
    padded = torch.zeros(2, 77, dtype=torch.long)
    padded[:, : tokens.shape[1]] = tokens
    with torch.no_grad():
        fast = tools.encode_images(model, images, keep=196, generator=torch.Generator())
        torch.testing.assert_close(fast, model.encode_image(pixels, normalize=True), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            tools.encode_texts(model, tokens), model.encode_text(padded, normalize=True), atol=1e-6, rtol=0
        )


def test_every_caption_token_has_a_row(demo):
    import open_clip

    from scclip_rt.demo.scenes import CLASSES, caption

    tokenizer = demo.model.demo_tokenizer()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        classes = rng.choice(len(CLASSES), int(rng.integers(1, 4)), replace=False)
        text = caption(classes, rng, templates=open_clip.OPENAI_IMAGENET_TEMPLATES, synonyms=0.5)
        assert (tokenizer([text]) > 0).all(), text


def test_the_shipped_file_holds_the_trained_model(demo, tiny, banks, tmp_path):
    trainer = demo.train.Trainer(tiny, banks)
    trainer.save(tmp_path / "checkpoint.pt")
    calibration = {"cls_residual": 0.1, "fusion_layers": [0, 1], "pre_layer": 1, "post_layer": 0}
    demo.checkpoint.ship(tmp_path / "checkpoint.pt", tmp_path / "demo.safetensors", calibration)
    model, index, stored = demo.checkpoint.load_checkpoint(tmp_path / "demo.safetensors")
    assert stored["fusion_layers"] == (0, 1)
    assert index.shape == (49408,)
    assert int(index.max()) == len(model.token_embedding.weight) - 1
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=2e-3, rtol=2e-3)
