"""A small store in memory, with what the training code uses of the real one."""

import numpy as np


class MemoryStore:
    """Random mel power of clips of the given lengths, in shards."""

    n_mels = 128

    def __init__(self, lengths=(130, 96, 200, 97, 150, 140, 99, 120), shards=3, seed=0):
        generator = np.random.default_rng(seed)
        self.frames = np.asarray(lengths)
        self.offsets = np.concatenate([[0], np.cumsum(self.frames)[:-1]]).astype(np.int64)
        self.shards = []
        for part in np.array_split(self.frames, shards):
            power = np.exp(2 * generator.standard_normal((int(part.sum()), 128)))
            shard = power.astype(np.float16)
            shard.flags.writeable = False
            self.shards.append(shard)
        self.fingerprint = f"memory-{seed}"

    def __len__(self):
        return len(self.frames)

    def clip(self, number):
        everything = np.concatenate(self.shards)
        start = self.offsets[number]
        return everything[start : start + self.frames[number]]
