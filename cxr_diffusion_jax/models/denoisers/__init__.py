"""The denoising networks: `config.model.name` is the name of a module here.

A network is one module with a Flax Linen class and `NETWORK`, which is that class. See
`models.network` for what the class declares.
"""
