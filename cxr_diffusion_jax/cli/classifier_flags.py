"""Flags of the classifiers that `evaluate` and `compare` train.

flags --define--> holders, read by `evaluation_flags.options`
"""

from absl import flags

from cxr_diffusion_jax.cli import flag_help

Holders = dict[str, flags.FlagHolder]

# Attribute these flags to the main that defines them.
flags.disclaim_key_flags()


def define() -> Holders:
  """Defines the flags of the probe, and of utility."""
  return {**_define_trained(), **_define_utility()}


def _define_trained() -> Holders:
  number = flags.DEFINE_integer
  with flag_help.group("Classifiers that are trained (the probe, and utility's)"):
    return {
      "classifier_network": flags.DEFINE_enum(
        "classifier_network",
        "",
        ["", "small", "resnet18"],
        "small or resnet18; by default small on CPUs, resnet18 on accelerators.",
      ),
      "classifier_patience": number(
        "classifier_patience",
        0,
        "Checks of validation patients without growth of AUROC that end a training; 0"
        " for 5.",
        0,
      ),
      "probe_steps": number(
        "probe_steps",
        0,
        "Updates of the probe at most; 0 for 1,800 on CPUs, 20,000 on accelerators.",
        0,
      ),
    }


def _define_utility() -> Holders:
  texts, number = flags.DEFINE_list, flags.DEFINE_integer
  with flag_help.group("Utility (classifiers trained on generated images)"):
    return {
      "utility_num": number(
        "utility_num", 0, "Generated training images; 0 for as many as real ones.", 0
      ),
      "utility_steps": number(
        "utility_steps", 0, "Updates of each classifier at most; 0 for the probe's.", 0
      ),
      "utility_ratios": texts(
        "utility_ratios",
        ["1"],
        "Generated images that are added to the real ones, in multiples of"
        " --utility_num, each from 1 to 5.",
      ),
      "utility_balanced": flags.DEFINE_bool(
        "utility_balanced",
        False,
        "Whether generated training images show each finding equally often.",
      ),
      "utility_fractions": texts(
        "utility_fractions",
        ["0.01", "0.1", "0.3", "1"],
        "Fractions of the real training images.",
      ),
    }
