"""Distillation: crops, targets, loss, what is learnt, and runs that go on."""

import csv
import math
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_store import write_store
from torch._dynamo.testing import CompileCounter

from myna_plugin import load_model
from myna_plugin.common.errors import InputError
from myna_plugin.common.locks import locked
from myna_plugin.model import embedding
from myna_plugin.model.checkpoint import save_checkpoint
from myna_plugin.model.chunks import encode_chunks
from myna_plugin.model.encoder import SIZES, EncoderConfig, MynaEncoder, Size, initialise
from recipes.distil import training as distil
from recipes.distil.__main__ import main
from recipes.distil.training import Settings, Student, Training, embed_chunks_of, student_config

STEPS = 6
SETTINGS = Settings("mini", steps=STEPS, batch_size=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "store", 16)


@pytest.fixture(autouse=True)
def mini(monkeypatch):
    monkeypatch.setitem(SIZES, "mini", Size(32, 2, 1, 64))
    monkeypatch.setattr(distil, "MEASURED_BATCHES", 8)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory):
    config = EncoderConfig(
        embed_dim=32,
        depth=4,
        num_heads=1,
        mlp_dim=64,
        log_mel=True,
        fixed_scaling=(1e3, 4.4, 3.0),
        scene_layers=(2, 4),
        scene_pooling="mean-std",
    )
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_checkpoint(initialise(MynaEncoder(config), 7), path)
    return path


@pytest.fixture
def begin(store, teacher_file, tmp_path):
    def begin(name="run", settings=SETTINGS, store=store, teacher=teacher_file):
        (tmp_path / name).mkdir(exist_ok=True)
        return Training(store, [load_model(teacher)], tmp_path / name, settings, "cpu")

    return begin


def test_a_target_is_the_scene_embedding_of_a_sound_of_one_chunk(begin):
    training = begin()
    (teacher,), sounds = training.teachers.models, 0.1 * torch.randn(3, 95 * 512)
    mel = teacher.mel.frames(sounds, 0, 96)
    assert mel.shape == (3, 128, 96)
    vectors = teacher.embed_scenes(sounds)
    assert vectors.shape == (3, 2 * 2 * 2 * 32)
    torch.testing.assert_close(embed_chunks_of(teacher, mel), vectors, rtol=1e-5, atol=1e-6)
    expected = (vectors - training.mean) / training.deviation
    torch.testing.assert_close(training.target(mel), expected, rtol=1e-4, atol=1e-4)


def test_of_two_teachers_the_targets_follow_each_other(store, teacher_file, tmp_path):
    config = load_model(teacher_file).encoder.config
    other = replace(config, embed_dim=64, depth=2, scene_layers=(2,), scene_pooling="mean")
    save_checkpoint(initialise(MynaEncoder(other), 3), tmp_path / "other.safetensors")
    files = (teacher_file, tmp_path / "other.safetensors")
    models = [load_model(file) for file in files]
    training = Training(store, models, tmp_path, SETTINGS, "cpu")
    assert training.student.encoder.config.scene_layers == (1, 2)  # as the first is read

    sounds = 0.1 * torch.randn(3, 95 * 512)
    mel = models[0].mel.frames(sounds, 0, 96)
    vectors = torch.cat([model.embed_scenes(sounds) for model in models], dim=1)
    assert vectors.shape == (3, 256 + 128)
    expected = (vectors - training.mean) / training.deviation
    torch.testing.assert_close(training.target(mel), expected, rtol=1e-4, atol=1e-4)
    training.run(2, 1e6, 1000)
    assert training.student(mel).shape == (3, 256 + 128)


@pytest.fixture
def uncompiled():
    """torch remembers what a process has compiled, of all tests, and then compiles no more."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("uncompiled")
def test_the_command_compiles_teachers_and_student_alike(
    store, teacher_file, tmp_path, monkeypatch
):
    of_teachers, of_student = CompileCounter(), CompileCounter()
    compiled_teacher = torch.compile(encode_chunks, backend=of_teachers)
    monkeypatch.setattr(embedding, "compiled_encode", lambda: compiled_teacher)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=of_student))
    students = []
    for compiles in (False, True):
        out = tmp_path / str(compiles)
        main.callback(store.path, out, [teacher_file], 1e6, 10, compiles, "cpu", **asdict(SETTINGS))
        assert [graphs.frame_count > 0 for graphs in (of_teachers, of_student)] == 2 * [compiles]
        students.append(load_model(out / "final.safetensors").encoder.state_dict())
    for name, tensor in students[0].items():
        torch.testing.assert_close(students[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_targets_of_the_first_batches_have_mean_0_and_deviation_1(begin):
    training = begin()
    batches = [mel for mel, _ in training.crops.stream(0, distil.MEASURED_BATCHES)]
    targets = torch.cat([training.target(mel) for mel in batches])
    assert targets.shape == (8 * 2 * 4, 256)
    assert targets.mean(0).abs().max() < 1e-3
    assert (targets.std(0, correction=0) - 1).abs().max() < 1e-3


def test_crops_are_two_of_each_clip_as_they_are_stored(begin, store):
    crops = begin().crops
    frames = np.concatenate([np.array(shard) for shard in store.shards])
    taken = []
    drawn = [crops.sampler.draw(step) for step in range(4)]
    for views, (mel, seen) in zip(drawn, crops.stream(0, 4), strict=True):
        assert (tuple(mel.shape), mel.dtype, seen) == ((8, 128, 96), torch.float32, None)
        for crop, start in zip(mel, views.starts[0].flatten().tolist(), strict=True):
            assert np.array_equal(crop.numpy(), frames[start : start + 96].T.astype(np.float32))
        taken += views.sounds.tolist()
    assert sorted(taken) == list(range(16))


def test_crops_of_frames_on_a_device_are_those_from_disk(begin, store):
    crops = begin(settings=replace(SETTINGS, mask_ratio=0.5)).crops
    read = [*crops.stream(0, 2)]
    crops.frames = distil.ResidentFrames(store, "cpu")
    for (mel, seen), (other, also) in zip(read, crops.stream(0, 2), strict=True):
        assert mel.equal(other)
        assert torch.stack(seen).equal(torch.stack(also))
        assert torch.stack(seen).shape == (2, 8, 24)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_frames_lie_there_and_crops_are_those_of_the_store(
    store, teacher_file, tmp_path
):
    settings = replace(SETTINGS, mask_ratio=0.5)
    training = Training(store, [load_model(teacher_file)], tmp_path, settings, "cuda")
    frames = np.concatenate([np.array(shard) for shard in store.shards])
    assert training.crops.frames is not None
    starts = training.crops.sampler.draw(3).starts[0].flatten().tolist()
    ((mel, _),) = training.crops.stream(3, 4)
    for crop, start in zip(mel.cpu().numpy(), starts, strict=True):
        assert np.array_equal(crop, frames[start : start + 96].T.astype(np.float32))
    training.run(STEPS, 1e6, 100)
    going_on = Training(store, [load_model(teacher_file)], tmp_path, settings, "cuda")
    assert going_on.step == 6
    for name, tensor in training.student.state_dict().items():
        assert tensor.equal(going_on.student.state_dict()[name]), name


def test_masks_hide_patches_from_the_student_alone(begin):
    training = begin(settings=replace(SETTINGS, mask_ratio=0.5))
    ((mel, seen),) = training.crops.stream(0, 1)
    hidden = mel.clone()
    square = seen[0][0].tolist()
    missing = next(token for token in range(48) if token not in square)
    row, column = divmod(missing, 6)
    hidden[0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] *= 50
    own = training.student.embed(mel, seen).unflatten(1, (2, 2, 64))
    other = training.student.embed(hidden, seen).unflatten(1, (2, 2, 64))
    assert own[:, :, 0].equal(other[:, :, 0])  # of square patches
    assert not training.student.embed(hidden).equal(training.student.embed(mel))
    assert not training.target(hidden)[0].equal(training.target(mel)[0])


def test_the_loss_is_the_squared_error_over_features_and_crops(begin):
    training = begin()
    ((mel, _),) = training.crops.stream(0, 1)
    with torch.no_grad():
        scenes = training.student.embed(mel)
        predicted = scenes @ training.student.head.weight.T + training.student.head.bias
        expected = ((predicted - training.target(mel)) ** 2).sum(1).mean() / 256
    assert training.take_step((mel, None)).item() == pytest.approx(expected.item(), rel=1e-4)


def similarities(vectors):
    """Of every two crops, the cosine of their standardised vectors."""
    centred = vectors - vectors.mean(0)
    centred = centred / centred.std(0).clamp(min=1e-6)
    rows, columns = np.triu_indices(len(vectors), 1)
    return torch.corrcoef(centred)[rows, columns]


def test_the_student_comes_to_be_like_the_teacher(begin, tmp_path):
    settings = Settings("mini", steps=200, batch_size=16, learning_rate=3e-3)
    training = begin(settings=settings, store=write_store(tmp_path / "many", 256))
    config = training.student.encoder.config
    untrained = Student(initialise(MynaEncoder(config), 0), 256, 0, False)
    training.run(200, 1e6, 1000)
    rows = [*csv.DictReader((tmp_path / "run" / "train.csv").open())]
    assert [int(row["step"]) for row in rows] == [*range(50, 201, 50)]

    other = write_store(tmp_path / "other", 32, seed=5)
    mel = torch.stack(
        [torch.from_numpy(other.clip(i)[:96].T.astype(np.float32)) for i in range(32)]
    )
    student = load_model(tmp_path / "run" / "final.safetensors")
    assert (student.scene_layers, student.scene_pooling) == ((1, 2), "mean-std")
    with torch.no_grad():
        before = loss_of(untrained, training, mel)
        after = loss_of(training.student, training, mel)
        wanted = similarities(training.teachers(mel))
        found = [
            float(torch.corrcoef(torch.stack([similarities(vectors), wanted]))[0, 1])
            for vectors in (untrained.embed(mel), embed_chunks_of(student, mel))
        ]
    # 1.15 and 0.62 were measured, and 0.34 and 0.58.
    assert after < before / 1.6
    assert found[1] > found[0] + 0.15


def loss_of(student, training, mel):
    return float((student(mel) - training.target(mel)).square().mean())


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(begin, tmp_path):
    settings = replace(SETTINGS, mask_ratio=0.5)
    begin("whole", settings).run(STEPS, 1e6, 2)
    parts = begin("parts", settings)

    class Killed(BaseException):
        pass

    def kill(*given):
        if parts.step == 3:
            raise Killed
        return take_step(*given)

    take_step, parts.take_step = parts.take_step, kill
    with pytest.raises(Killed):
        parts.run(STEPS, 1e6, 2)
    gone_on = begin("parts", settings)
    assert gone_on.step == 2
    gone_on.run(STEPS, 1e6, 100)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert parts["step"] == whole["step"] == 6
    for name in ("mean", "deviation"):
        assert parts[name].equal(whole[name])
    for name, tensor in whole["student"].items():
        assert tensor.equal(parts["student"][name]), name
    files = [(tmp_path / name / "final.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    assert begin("whole", settings).run(STEPS, 1e6, 2) is None  # nothing is left to do


def test_minutes_end_a_run_and_more_of_them_go_on(begin):
    assert begin().run(STEPS, 1e-9, 100) is None
    training = begin()
    assert training.step == 1
    assert training.run(STEPS, 1e-9, 100) is None
    assert training.step == 1
    training.run(STEPS, 1e6, 100)
    assert training.step == 6


def test_a_run_goes_on_with_its_own_settings_store_and_teacher_alone(
    begin, store, teacher_file, tmp_path
):
    begin().run(STEPS, 1e-9, 1)
    with pytest.raises(InputError, match="begun with batch_size=4; go on"):
        begin(settings=replace(SETTINGS, batch_size=8))
    with pytest.raises(InputError, match="begun with store="):
        begin(store=write_store(tmp_path / "other", 16, seed=1))
    teacher = load_model(teacher_file).encoder
    save_checkpoint(initialise(teacher, 8), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"begun with teacher=[0-9a-f]{64}; go on"):
        begin(teacher=tmp_path / "other.safetensors")
    reads = replace(teacher.config, scene_layers=(4,))
    save_checkpoint(initialise(MynaEncoder(reads), 7), tmp_path / "last.safetensors")
    with pytest.raises(InputError, match="begun with teacher_config="):
        begin(teacher=tmp_path / "last.safetensors")


def test_teachers_take_the_same_input(store, teacher_file, tmp_path):
    config = replace(load_model(teacher_file).encoder.config, chunk_frames=192)
    save_checkpoint(initialise(MynaEncoder(config), 3), tmp_path / "longer.safetensors")
    models = [load_model(teacher_file), load_model(tmp_path / "longer.safetensors")]
    with pytest.raises(InputError, match="chunk_frames 96 of the first, 192 of another"):
        Training(store, models, tmp_path, SETTINGS, "cpu")


def test_the_student_reads_as_the_teacher_does(begin):
    teacher = EncoderConfig(
        patchings=("vertical",), chunk_frames=98, log_mel=True, scene_layers=(2, 6, 12)
    )
    config = student_config("vit-l", teacher)
    assert (config.depth, config.scene_layers, config.timestamp_layer) == (24, (4, 12, 24), None)
    assert (config.patchings, config.chunk_frames, config.log_mel) == (("vertical",), 98, True)
    timed = replace(
        teacher, timestamp_layer=4, timestamp_hop_ms=25, timestamp_reading="vertical-deltas"
    )
    config = student_config("vit-l", timed)
    assert (config.scene_layers, config.timestamp_layer) == ((4, 12, 24), 8)
    assert (config.timestamp_hop_ms, config.timestamp_reading) == (25, "vertical-deltas")
    for unlike in (teacher, replace(timed, scene_layers=(12,))):
        with pytest.raises(InputError, match="--size mini: its 2 blocks have none where"):
            student_config("mini", unlike)


def test_initial_weights_are_where_it_begins(begin, tmp_path):
    config = begin().student.encoder.config
    first = initialise(MynaEncoder(config), 5)
    save_checkpoint(first, tmp_path / "first.safetensors")
    settings = replace(SETTINGS, initial_weights=str(tmp_path / "first.safetensors"))
    begun = begin("other", settings).student.encoder.state_dict()
    assert all(tensor.equal(begun[name]) for name, tensor in first.state_dict().items())


def test_the_command_says_what_is_wrong(store, teacher_file, tmp_path):
    out = tmp_path / "out"

    def ends(*arguments):
        result = CliRunner().invoke(main, [*map(str, arguments)])
        return result.exit_code, result.output

    common = ("--teacher", teacher_file, "--device", "cpu", "--steps", 1)
    unfit = ("--batch-size", 4, "--size", "vit-s", "--initial-weights", "tiny")
    for given, told in (
        ((store.path, out, *common), "16 clips to train on, fewer than one batch of 1024"),
        ((tmp_path / "absent", out, *common), str(tmp_path / "absent")),
        (
            (store.path, out, "--device", "cpu"),
            "fewer than one batch of 1024",
        ),  # the packaged model
        ((store.path, out, "--teacher", "absent.pt"), "absent.pt: no such file"),
        ((store.path, out, "--teacher", "default"), "known are '' for the packaged model"),
        ((store.path, out, *common, "--mask-ratio", 0.95), "at most 0.9"),
        ((store.path, out, *common, *unfit), "has embed_dim 192"),
    ):
        code, output = ends(*given)
        assert (code, told in output, output.count("\n")) == (2, True, 1), output
        assert not out.exists()
    arguments = (store.path, out, *common, "--batch-size", 4)
    code, output = ends(*arguments)
    assert (code, "1 steps" in output, "load_model" in output) == (0, True, True), output
    model = load_model(out / "final.safetensors")
    assert (model.scene_layers, math.prod(model.embed_scenes(torch.zeros(1, 99)).shape)) == (
        (6, 12),
        2 * 2 * 2 * 192,
    )
    with locked(out / "lock", "busy"):
        code, output = ends(*arguments)
    assert (code, "another process is training there" in output) == (2, True)
    (out / "checkpoint.pt").write_bytes(b"torn")
    code, output = ends(*arguments)
    assert (code, "damaged" in output) == (2, True)
    torch.save([1], out / "checkpoint.pt")
    code, output = ends(*arguments)
    assert (code, "no checkpoint of this recipe" in output) == (2, True)


def test_help_tells_every_option_with_examples():
    output = CliRunner().invoke(main, ["--help"]).output
    assert "python -m recipes.distil store out/small --minutes 5" in output
    for option in ("teacher", "size", "minutes", "initial-weights", "mask-ratio", "compile"):
        assert f"--{option}" in output
