"""Run by tests as a program of its own: an exported folder, where myna-plugin is not installed.

    python -I elsewhere.py FOLDER WORK

FOLDER holds the export; WORK holds `sound.npy` (1, S), receives what is saved and measured.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRUST = {"trust_remote_code": True}


class Clips(torch.utils.data.Dataset):
    """Four clips of two classes."""

    def __init__(self, sound: Tensor) -> None:
        self.sound = sound

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> dict[str, Any]:
        clip = self.sound[0, 20_000 * i :][:20_000]
        return {"input_values": clip * (1 + i % 2), "labels": i % 2}


def embed(transformers: Any, folder: Path, work: Path, sound: Tensor) -> str:
    """Save what the exported model makes of the sound; the name of its class."""
    model = transformers.AutoModel.from_pretrained(folder, **TRUST)
    with torch.no_grad():
        output = model(sound)
    np.save(work / "scenes.npy", output.pooler_output)
    np.save(work / "timestamps.npy", output.last_hidden_state)
    return type(model).__name__


def tune(transformers: Any, folder: Path, work: Path, sound: Tensor) -> torch.nn.Module:
    """Train a classifier for three steps and save it."""
    classifier = transformers.AutoModelForAudioClassification.from_pretrained(
        folder, id2label={0: "soft", 1: "loud"}, label2id={"soft": 0, "loud": 1}, **TRUST
    )
    arguments = transformers.TrainingArguments(
        output_dir=work / "trainer",
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_checkpointing=True,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
    )
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    trainer = transformers.Trainer(
        classifier, arguments, train_dataset=Clips(sound), processing_class=extractor
    )
    trainer.train()
    trainer.save_model(work / "tuned")
    return classifier.eval()


def main(folder: Path, work: Path) -> None:
    """Embed, tune, save, load and classify."""
    sys.modules["myna_plugin"] = None  # type: ignore[assignment]  # importing it is an error
    # As if not installed: beside this torch it may not load.
    sys.modules["torchaudio"] = None  # type: ignore[assignment]
    import transformers

    sound = torch.from_numpy(np.load(work / "sound.npy"))
    name = embed(transformers, folder, work, sound)
    classifier = tune(transformers, folder, work, sound)
    pipeline = transformers.pipeline("audio-classification", model=str(work / "tuned"), **TRUST)
    found = pipeline(sound[0].numpy())
    tuned = transformers.AutoModel.from_pretrained(work / "tuned", **TRUST)
    tuned.save_pretrained(work / "again")
    again = transformers.AutoModel.from_pretrained(work / "again", **TRUST)
    with torch.no_grad():
        np.save(work / "tuned.npy", again(sound).pooler_output)
        logits = classifier(sound).logits[0]
    facts = {
        "ours": [name for name in sys.modules if name.partition(".")[0] == "myna_plugin"],
        "classes": [name, type(classifier).__name__, type(again).__name__],
        "scores": {each["label"]: each["score"] for each in found},
        "expected": dict(zip(("soft", "loud"), logits.softmax(-1).tolist(), strict=True)),
    }
    (work / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
