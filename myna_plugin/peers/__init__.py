"""Other people's encoders, and baselines that learn nothing, as HEAR modules: one file each."""
