"""Settings: the paper's defaults, and clear errors for anything else."""

import pytest

from myna_plugin.pretraining.run.settings import PretrainSettings, SettingsError


def test_defaults_are_the_papers():
    settings = PretrainSettings()
    assert settings.patchings == ("square", "vertical")
    encoder = settings.encoder_config()
    assert (encoder.embed_dim, encoder.depth, encoder.num_heads, encoder.mlp_dim) == (
        384,
        12,
        6,
        1536,
    )
    assert (settings.mask_ratio, settings.batch_size, settings.epochs) == (0.9, 4096, 500)
    assert (settings.learning_rate, settings.weight_decay) == (3e-4, 1e-5)
    assert not settings.scheduled
    assert (settings.temperature, settings.crop_frames, settings.loss) == (0.1, 96, "decoupled")
    assert settings.held_out_clips == 0
    # 822,000 clips are 200 batches an epoch, and with them nearly the paper's 411 million examples.
    assert settings.total_steps(822_000 // 4096) * 4096 == pytest.approx(411e6, rel=0.005)


@pytest.mark.parametrize("max_steps", [7, 7000])
def test_max_steps_takes_the_place_of_epochs(max_steps):
    assert (
        PretrainSettings(epochs=500, max_steps=max_steps).total_steps(steps_per_epoch=5)
        == max_steps
    )


def test_mapping_round_trip():
    settings = PretrainSettings(
        patchings=("vertical",), projector=(), depth=3, max_steps=7, tile_rows=None
    )
    assert PretrainSettings().with_changes(settings.to_mapping()) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sise": 8}, "batch_sise: unknown setting; did you mean batch_size?"),
        ({"xyz": 8}, "xyz: unknown setting; known: objective"),
        ({"batch_size": 8.5}, "batch_size: must be a whole number, got 8.5"),
        ({"batch_size": True}, "batch_size: must be a whole number"),
        ({"batch_size": 1}, "batch_size: must be at least 2"),
        ({"depth": "two"}, "depth: must be a whole number or null, got 'two'"),
        ({"log_mel": 1}, "log_mel: must be true or false"),
        ({"fixed_scaling": [1000, 4.4, 3]}, "fixed_scaling is of the logarithm"),
        ({"log_mel": True, "fixed_scaling": [1000, 4.4]}, "three numbers"),
        ({"fixed_scaling": "loud"}, "fixed_scaling: must be a list, each item a number or null"),
        ({"learning_rate": "fast"}, "learning_rate: must be a number"),
        ({"weight_decay": float("nan")}, "weight_decay: must be a finite number"),
        ({"warmup_steps": 1.5}, "warmup_steps: must be a whole number"),
        ({"mask_ratio": "1e999"}, "mask_ratio: must be a finite number"),
        ({"learning_rate": 10**400}, "learning_rate: must be a number"),
        ({"learning_rate": 0}, "learning_rate: must be above 0"),
        ({"projector": [384, "x"]}, "projector: must be a list, each item a whole number"),
        ({"device": "tpu"}, "device: must be one of auto, cpu, cuda, got 'tpu'"),
        ({"size": "vit-xl"}, "size: unknown 'vit-xl'; known: vit-ti"),
        ({"loss": "simclr"}, "loss: unknown 'simclr'; known: decoupled"),
        ({"mask_ratio": 1.0}, r"mask_ratio must lie in \[0, 1\)"),
        ({"patchings": ["round"]}, "patchings must be different ones of"),
        ({"crop_frames": 100}, "crop_frames must be a multiple of 16 .* got 100"),
        ({"held_out_clips": 1}, "held_out_clips: must be 0 or at least 2"),
        ({"probe_every": 5}, "probe_every: needs probe_tasks"),
        ({"schedule": "linear"}, "schedule: unknown 'linear'; known: constant, cosine"),
        ({"warmup_steps": -1}, "warmup_steps: must be at least 0"),
        ({"clips_per_block": 0}, "clips_per_block: must be at least 1"),
        ({"clips_per_block": 6}, "batch_size: must be a multiple of clips_per_block=6, got 4096"),
        ({"versions": 0}, "versions: must be at least 1"),
        ({"version_share": 1.5}, r"version_share: must be 0 to 1, got \[1.5\]"),
        ({"version_share": [1, -1]}, "version_share: must be 0 to 1"),
        ({"version_share": [1, 1, 0]}, "version_share: must be one value or 2, .* got 3"),
        ({"version_share": []}, "version_share: must be one value or 2"),
        (
            {"versions": 2, "version_stride": 4, "clips_per_block": 4},
            "clips_per_block: must be 1 or a multiple of versions . version_stride=8, got 4",
        ),
        (
            {"versions": 2, "clips_per_block": 6},
            "batch_size: must be a multiple of clips_per_block=6 / versions=2, got 4096",
        ),
        (
            {"versions": 2, "version_stride": 4, "held_out_clips": 12},
            "held_out_clips: must be a multiple of versions . version_stride=8, got 12",
        ),
        (
            {"clips_per_block": 8, "held_out_clips": 12},
            "held_out_clips: must be a multiple of clips_per_block=8, got 12",
        ),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(SettingsError, match=message):
        PretrainSettings().with_changes(changes)


def test_values_as_yaml_gives_them():
    changed = PretrainSettings().with_changes(
        {"learning_rate": "3e-5", "weight_decay": 0, "patchings": "square", "depth": None}
    )
    assert changed.learning_rate == 3e-5
    assert changed.weight_decay == 0.0
    assert changed.patchings == ("square",)


def test_only_what_changes_the_result_counts_as_a_difference():
    settings = PretrainSettings()
    assert settings.differences(PretrainSettings(epochs=3, log_every=1, keep_last=9)) == []
    assert settings.differences(PretrainSettings(seed=1, mask_ratio=0.5)) == ["mask_ratio", "seed"]
    # A cosine's every step depends on how many there will be.
    falling = PretrainSettings(schedule="cosine")
    assert falling.differences(PretrainSettings(schedule="cosine", max_steps=9)) == ["max_steps"]
