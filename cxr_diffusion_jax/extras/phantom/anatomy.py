"""Draws phantom patients and studies as plain numbers, before anything is rendered.

patient generator -> Patient (kept between its images); image generator -> Study
(view, posture, exposure, lesions). Lengths are fractions of a canonical image frame:
x to the viewer's right (the patient's left) from the midline, y down from the top.
"""

import dataclasses

import numpy as np

# What the phantom can show, in NIH's spelling and order.
RENDERED = (
  "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema",
  "Infiltration", "Mass", "Nodule", "Pneumothorax",
)  # fmt: skip

# Pairs that occur together in patients and do not hide one another.
COMPATIBLE = (
  ("Atelectasis", "Effusion"), ("Atelectasis", "Nodule"), ("Cardiomegaly", "Edema"),
  ("Cardiomegaly", "Effusion"), ("Cardiomegaly", "Infiltration"),
  ("Consolidation", "Effusion"), ("Consolidation", "Nodule"),
  ("Effusion", "Infiltration"), ("Effusion", "Mass"), ("Emphysema", "Nodule"),
  ("Emphysema", "Pneumothorax"),
)  # fmt: skip

LEFT, RIGHT, BOTH = 1, -1, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patient:
  """One body."""

  age: int  # years
  sex: str  # 'M' or 'F'
  half_width: float  # inner half width of the rib cage
  depth: float  # of the trunk in cm
  fat: float  # 0 lean to 1 obese
  apex: float  # y of the lungs' tops
  rib_phase: float  # place of the ribs
  rib_spacing: float
  rib_slope: float  # their descent
  bend: float  # scoliosis amplitude
  ctr: float  # heart width over thoracic width when healthy
  knob: float  # the aortic knob's bulge
  breast: float  # radius
  density: float  # of aerated lung, water 1
  seed: int  # of the vessels and the lung's texture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesion:
  """One finding's place and size."""

  name: str  # of `RENDERED`
  side: int  # LEFT, RIGHT or BOTH of the patient
  extent: float  # 0 slight to 1 severe
  x: float  # distance from the midline, for focal findings
  y: float
  diameter: float  # cm, for nodules and masses
  seed: int  # of its texture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """One exposure of a patient."""

  view: str  # 'PA' or 'AP'
  lesions: tuple[Lesion, ...]  # several may share a name
  tilt: float  # radians
  dx: float  # placement in the frame, as are the next two
  dy: float
  zoom: float
  field_cm: float  # width of the frame
  turn: float  # rotation about the body's axis, as a shift of anterior parts
  breath: float  # 0 full inspiration, 1 shallow
  arms: float  # 0 hanging to 1 abducted
  scapula: float  # shift inwards
  gas: float  # size of the gastric bubble
  chin: float  # how far the jaw enters
  scatter: float  # of the detector, as is the noise
  noise: float
  contrast: float  # of the display, as is the brightness
  brightness: float
  wires: int  # number of leads over the chest
  border: int  # collimation: 0 none, 1 black, 2 white
  marker: str  # 'L' or 'R'
  seed: int  # of everything drawn at random in rendering

  @property
  def findings(self) -> tuple[str, ...]:
    """The names shown, sorted, each once."""
    return tuple(sorted({lesion.name for lesion in self.lesions}))


def sample_patient(rng: np.random.Generator) -> Patient:
  """A body drawn at random; adults from 18 to 92 years."""
  sex = "M" if rng.random() < 0.56 else "F"
  age = int(np.clip(rng.normal(52, 17), 18, 92))
  fat = float(rng.beta(2, 3))
  small = 0.02 if sex == "F" else 0.0
  return Patient(
    age=age,
    sex=sex,
    half_width=rng.uniform(0.325, 0.362) - small,
    depth=18.5 + 4.5 * fat + rng.uniform(-1, 1) - 40 * small,
    fat=fat,
    apex=rng.uniform(0.095, 0.135),
    rib_phase=rng.uniform(-0.5, 0.5),
    rib_spacing=rng.uniform(0.062, 0.072),
    rib_slope=rng.uniform(0.85, 1.2),
    bend=rng.normal(0, 0.006),
    ctr=rng.uniform(0.39, 0.46) + 0.0005 * (age - 50),
    knob=rng.uniform(0.004, 0.014) + 0.0003 * max(age - 40, 0),
    breast=rng.uniform(0.1, 0.15) + 0.05 * fat if sex == "F" else 0.0,
    density=rng.uniform(0.24, 0.31),
    seed=int(rng.integers(2**31)),
  )


def sample_findings(rng: np.random.Generator) -> tuple[str, ...]:
  """A tree's mix: 40 % none, 45 % one finding, 15 % a compatible pair."""
  draw = rng.random()
  single = RENDERED[rng.integers(len(RENDERED))]
  pair = COMPATIBLE[rng.integers(len(COMPATIBLE))]
  if draw < 0.4:
    return ()
  return (single,) if draw < 0.85 else pair


def sample_study(
  rng: np.random.Generator,
  patient: Patient,
  *,
  findings: tuple[str, ...],
  view: str | None = None,
) -> Study:
  """An exposure of `patient` showing exactly `findings`.

  Args:
    rng: the image's own generator.
    patient: the body.
    findings: names of `RENDERED`; empty for none.
    view: 'PA' or 'AP'; None draws it, the ill being more often AP.
  """
  # Lesions draw from their own generator: the same image with other findings keeps its
  # pose and its exposure.
  own = np.random.default_rng(rng.integers(2**63))
  is_ap = rng.random() < (0.45 if findings else 0.3)
  view = view or ("AP" if is_ap else "PA")
  bedside = float(view == "AP")
  uniform = rng.uniform
  return Study(
    view=view,
    lesions=tuple(
      lesion for name in findings for lesion in _sample_lesions(own, name, patient)
    ),
    tilt=rng.normal(0, 0.018 + 0.02 * bedside),
    dx=rng.normal(0, 0.014 + 0.008 * bedside),
    dy=rng.normal(0, 0.02 + 0.008 * bedside),
    zoom=uniform(0.9, 1.14) + 0.03 * bedside,
    field_cm=uniform(36, 41),
    turn=rng.normal(0, 0.008 + 0.008 * bedside),
    breath=rng.beta(2, 4) * 0.6 + 0.5 * bedside * uniform(0.3, 1),
    arms=float(np.clip(uniform(0.3, 1.1) - 0.45 * bedside, 0, 1)),
    scapula=uniform(0, 0.02) + bedside * uniform(0.01, 0.045),
    gas=uniform(0.3, 1) if rng.random() < 0.75 else 0.0,
    chin=uniform(0.2, 1) if rng.random() < 0.1 + 0.25 * bedside else 0.0,
    scatter=uniform(0.05, 0.12) + 0.08 * bedside + 0.06 * patient.fat,
    noise=uniform(0.002, 0.005) + 0.002 * bedside,
    contrast=uniform(0.9, 1.35) - 0.2 * bedside,
    brightness=rng.normal(0, 0.06),
    wires=int(rng.integers(1, 5)) if rng.random() < 0.55 * bedside else 0,
    border=int(rng.choice(3, p=(0.6, 0.3, 0.1))),
    marker="L" if rng.random() < 0.7 else "R",
    seed=int(rng.integers(2**31)),
  )


def _sample_lesions(
  rng: np.random.Generator, name: str, patient: Patient
) -> list[Lesion]:
  """The lesions of one finding: one, or up to three nodules or infiltrates."""
  count = 1
  if name == "Nodule":
    count = int(rng.choice((1, 1, 2, 3)))
  elif name == "Infiltration":
    count = int(rng.choice((1, 2, 2)))
  two_sided = name in ("Cardiomegaly", "Edema", "Emphysema")
  first_side = LEFT if rng.random() < 0.5 else RIGHT
  centres = {
    "Consolidation": ((0.14, 0.22), (0.27, 0.66)),
    "Infiltration": ((0.14, 0.24), (0.42, 0.66)),
    "Mass": ((0.15, 0.23), (0.26, 0.58)),
    "Nodule": ((0.13, 0.27), (0.22, 0.6)),
  }
  span_x, span_y = centres.get(name, ((0.18, 0.2), (0.5, 0.6)))
  diameters = {"Nodule": (1.7, 2.9), "Mass": (4.0, 7.0)}.get(name, (0.0, 0.0))
  lesions = []
  for number in range(count):
    apart = name == "Infiltration" and number == 1
    y = rng.uniform(*span_y)
    if name == "Consolidation":
      # Off the fissure, which would otherwise cut most of it away.
      y += 0.07 * np.sign(y - 0.46)
    # The rib cage narrows upwards: keep the lesion inside it.
    reach = min(1.0, 0.55 + 0.9 * (y - 0.15)) * patient.half_width / 0.34
    lesions.append(
      Lesion(
        name=name,
        side=BOTH if two_sided else (-first_side if apart else first_side),
        extent=rng.uniform(0, 1),
        x=rng.uniform(*span_x) * reach,
        y=y,
        diameter=rng.uniform(*diameters),
        seed=int(rng.integers(2**31)),
      )
    )
  return lesions
