"""Tiny random weights of other people's encoders, in the layouts that they are published in."""

import importlib.util
import json
import sys
from types import ModuleType

import torch

from myna_plugin.common.toolkits import import_toolkit
from myna_plugin.peers import clmr

transformers = import_toolkit("transformers", "transformers", "tests")

MERT_SETTINGS = {
    "model_type": "mert_model",
    "auto_map": {"AutoConfig": "own_code.OwnConfig", "AutoModel": "own_code.OwnModel"},
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feature_extractor_cqt": False,
    "feature_extractor_cqt_bins": 336,
    "deepnorm": False,
    "attention_relax": -1.0,
}

OWN_CODE = """
from transformers import HubertConfig, HubertModel

class OwnConfig(HubertConfig):
    model_type = "mert_model"

class OwnModel(HubertModel):
    config_class = OwnConfig
"""


def write_mert(folder, rate=24_000, **changes):
    """A folder as MERT's repositories are: settings, code, and a pickled state dict."""
    folder.mkdir(parents=True)
    settings = {**MERT_SETTINGS, **changes}
    torch.manual_seed(0)
    named = {k: v for k, v in settings.items() if k not in ("model_type", "auto_map")}
    state = transformers.HubertModel(transformers.HubertConfig(**named)).state_dict()
    # As torch named the two before 2.0, when the checkpoints were written.
    weight = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    for number, old in enumerate(("weight_g", "weight_v")):
        state[f"encoder.pos_conv_embed.conv.{old}"] = state.pop(f"{weight}{number}")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(settings))
    sound = {"do_normalize": True, "sampling_rate": rate, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(sound))
    (folder / "own_code.py").write_text(OWN_CODE)
    return folder


def write_clap(folder, **changes):
    """A folder as CLAP's repositories are, the text tower's tensors too."""
    torch.manual_seed(0)
    config = transformers.ClapAudioConfig(
        patch_embeds_hidden_size=8,
        hidden_size=64,
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        projection_dim=24,
        **changes,
    )
    transformers.ClapAudioModelWithProjection(config).save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "clap", "projection_dim": 24, "audio_config": config.to_dict()})
    )
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder


def write_clmr(path, prefix="encoder.", wrap=None, seed=0):
    """A checkpoint as CLMR's releases are: encoder, projector, and counters of batches."""
    torch.manual_seed(seed)
    model = clmr.SampleCnn()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
        if isinstance(module, torch.nn.Conv1d):  # torch's own start lets the sound die out
            torch.nn.init.kaiming_normal_(module.weight)
    state = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    state["projector.0.weight"] = torch.zeros(4, 512)
    torch.save({"state_dict": state, "epoch": 3} if wrap else state, path)
    return path


class StandIn(torch.nn.Module):
    """What `dasheng` 0.0.9 promises, where it is not installed: sizes, tokens, and its trap."""

    def __init__(self, embed_dim, depth, num_heads, target_length=1008, hop_size=160):
        super().__init__()
        self.embed_dim, self.target_length, self.hop_size = embed_dim, target_length, hop_size
        self.patch_stride = (64, 4)
        self.time_pos_embed = torch.nn.Parameter(torch.randn(1, embed_dim, 1, target_length // 4))
        self.blocks = torch.nn.Sequential(
            *[torch.nn.Linear(embed_dim, embed_dim) for _ in range(depth)]
        )
        self.project = torch.nn.Linear(4 * hop_size, embed_dim)

    def forward(self, sounds):
        tokens = self.project(sounds.unfold(1, 4 * self.hop_size, 4 * self.hop_size))
        # As the decibels there, which end 120 below the loudest of all that come together.
        tokens = tokens.clamp(min=tokens.amax() - 0.5)
        return self.blocks(tokens + self.time_pos_embed[0, :, 0, : tokens.shape[1]].T)


def dasheng_package():
    """`dasheng.pretrained.pretrained`: the real one where it is installed, else a stand-in."""
    if importlib.util.find_spec("dasheng") is None:
        names = ["dasheng", "dasheng.pretrained", "dasheng.pretrained.pretrained"]
        for name in names:
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__spec__ = importlib.util.spec_from_loader(name, None)
        sys.modules[names[-1]].Dasheng = StandIn
    return import_toolkit("dasheng.pretrained.pretrained", "dasheng", "tests")


def write_dasheng(path):
    """A checkpoint as those of the Zenodo record: tensors, and settings without the sizes."""
    torch.manual_seed(0)
    model = dasheng_package().Dasheng(embed_dim=32, depth=2, num_heads=2)
    content = {"model": model.state_dict(), "config": {"num_heads": 2, "target_length": 1008}}
    torch.save(content, path)
    return path
