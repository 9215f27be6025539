"""Conditioned on a text: the 128 token states of a BERT of radiology reports.

  python -m cxr_diffusion_jax.main --config configs/bert_text.py \
    --config.data.root=nih-cxr --workdir runs/bert_text

`:small`, the default, is for one GPU: about 9e17 FLOPs, 2.5 h at 100 TFLOP/s (counted,
not run yet). `:tiny` on phantoms takes 9 to 13 minutes on 2 CPU cores (as clip_text).
More sizes: `configs/default.py`; figures: `docs/results/paths_on_phantoms.md`.
"""

from configs import default


def get_config(size: str = "small"):
  """Returns the recipe of a size with this condition."""
  config = default.get_config(size)
  config.conditioning = dict(
    name="bert_text",
    encoder="microsoft/BiomedVLP-CXR-BERT-specialized",
    pooled=False,
    chunks=1,
    drop_rate=0.1,
  )
  return config
