"""Plans of synthetic datasets: CSV files, and balanced quotas."""

from collections import Counter

import numpy as np
import pytest

from cxr_diffusion_jax import errors
from cxr_diffusion_jax.synthesis import balance
from cxr_diffusion_jax.synthesis import plan as plan_lib

VOCABULARY = ("Edema", "Effusion", "Mass")


@pytest.fixture
def write(tmp_path):
  """Writes a plan: `write("findings,num", "Edema,3") -> path`."""

  def write(*lines: str) -> str:
    path = tmp_path / "plan.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)

  return write


def test_read_takes_each_row_as_a_quota(write):
  path = write(
    "Findings,sex,age,view,num",
    "mass|Edema,F,40\u201359,AP,2",
    "No Finding,m,63,,1",
    "=?,,,PA,3",
  )
  plan = plan_lib.read(path, VOCABULARY)
  assert plan.quotas == (
    plan_lib.Quota(
      num=2, findings=("Edema", "Mass"), sex="F", ages=(40, 59), view="AP"
    ),
    plan_lib.Quota(num=1, findings=(), sex="M", ages=(63, 63)),
    plan_lib.Quota(num=3, view="PA"),
  )
  assert [quota.title for quota in plan.quotas] == [
    "Edema|Mass, F, 40-59, AP",
    "No Finding, M, 63",
    "PA",
  ]
  places = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
  assert [plan.place(number) for number in range(len(plan))] == places


def test_read_divides_a_number_over_rows_without_one(write):
  plan = plan_lib.read(write("view", "PA", "AP", ""), VOCABULARY, 8)
  assert [quota.num for quota in plan.quotas] == [4, 4]
  plan = plan_lib.read(write("sex,view", "F,PA", "F,AP", "M,"), VOCABULARY, 8)
  assert [quota.num for quota in plan.quotas] == [2, 3, 3]


@pytest.mark.parametrize(
  ("lines", "num", "message"),
  [
    (("findings,num", "Edema,3", "Efusion,1"), None,
     "line 3: 'findings' is 'Efusion' .* did you mean Effusion?"),
    (("findings,num", "Edema|Mass=?,3"), None, "names or No Finding; a blank cell"),
    (("sex,num", "X,3"), None, "line 2: 'sex' is 'X' .* F or M"),
    (("age,num", "60-40,3"), None, "line 2: 'age' is '60-40' .* 63 or 40-59"),
    (("age,num", "121,3"), None, "whole years from 0 to 120"),
    (("view,num", "lateral,3"), None, "line 2: 'view' is 'lateral' .* PA or AP"),
    (("view,num", "PA,0"), None, "line 2: 'num' is '0' .* 1 or more"),
    (("view,num", "PA,"), None, "line 2: 'num' is ''"),
    (("finding,num", "Edema,3"), None, "column 'finding'; .* did you mean findings?"),
    (("findings,Findings,num", "Edema,Mass,3"), None,
     "two columns named 'findings'"),
    (("num", "3"), None, "no column to plan by"),
    (("view,num",), None, "has no rows"),
    (("view,num", "PA,3"), 4, "4 images for .* add up to 3"),
    (("view", "PA"), None, "no number of images for 1 quotas"),
    (("view", "PA", "AP"), 1, "1 images for 2 quotas"),
  ],
)  # fmt: skip
def test_read_refuses_wrong_plans_in_one_line(write, lines, num, message):
  with pytest.raises(errors.InputError, match=message) as caught:
    plan_lib.read(write(*lines), VOCABULARY, num)
  assert "\n" not in str(caught.value)


def test_read_refuses_a_missing_file(tmp_path):
  with pytest.raises(errors.InputError, match=r"plan\.csv"):
    plan_lib.read(tmp_path / "plan.csv", VOCABULARY)


def _labels(rows: int = 400) -> dict[str, np.ndarray]:
  """Random labels, in which masses alone are of men of 40 to 59, AP."""
  rng = np.random.default_rng(0)
  findings = np.eye(4, 3, dtype=np.float32)[rng.integers(0, 4, rows)]
  mass = findings[:, 2] > 0
  return {
    "findings": findings,
    "sex": np.where(mass, 1, rng.integers(0, 2, rows)),
    "view": np.where(mass, 1, rng.integers(0, 2, rows)),
    "age": np.where(mass, 47, rng.integers(5, 95, rows)).astype(np.float32),
  }


def test_balanced_gives_findings_and_persons_equal_quotas():
  plan = balance.balanced(_labels(), VOCABULARY, 403)
  assert len(plan) == 403
  by_finding, by_sex, by_view = Counter(), Counter(), Counter()
  for quota in plan.quotas:
    by_finding[quota.findings] += quota.num
    if quota.findings != ("Mass",):
      by_sex[quota.sex] += quota.num
      by_view[quota.view] += quota.num
  assert set(by_finding) == {("Edema",), ("Effusion",), ("Mass",), ()}
  assert set(by_finding.values()) == {100, 101}
  assert abs(by_sex["F"] - by_sex["M"]) <= 3
  assert abs(by_view["PA"] - by_view["AP"]) <= 3
  (mass,) = [quota for quota in plan.quotas if quota.findings == ("Mass",)]
  assert (mass.sex, mass.ages, mass.view) == ("M", (40, 59), "AP")
  # No older than anyone in the labels.
  assert max(quota.ages[1] for quota in plan.quotas) < 95


def test_balanced_counts_findings_in_company_or_alone():
  labels = {
    "findings": np.array([[0, 0, 0], [1, 1, 0]], np.float32),
    "sex": np.array([0, 1]),
    "view": np.array([-1, -1]),
    "age": np.array([30, 50], np.float32),
  }
  plan = balance.balanced(labels, VOCABULARY, 6)
  assert [quota.title for quota in plan.quotas] == [
    "Edema, M, 50",
    "Effusion, M, 50",
    "No Finding, F, 30",
  ]
  assert {quota.num for quota in plan.quotas} == {2}
  plan = balance.balanced(labels, VOCABULARY, 6, of_images=True)
  assert [quota.title for quota in plan.quotas] == ["No Finding, F, 30"]


def test_balanced_uses_images_of_a_finding_equally_often():
  """Of eleven images, ten are of women: these get ten of eleven images of a quota."""
  labels = {
    "findings": np.concatenate([np.eye(1, 3), np.zeros((11, 3))]),
    "sex": np.array([0, *[0] * 10, 1]),
    "view": np.zeros(12, int),
    "age": np.full(12, 50.0),
  }
  plan = balance.balanced(labels, VOCABULARY, 44, of_images=True)
  assert {quota.title: quota.num for quota in plan.quotas} == {
    "Edema, F, 50, PA": 22,
    "No Finding, F, 50, PA": 20,
    "No Finding, M, 50, PA": 2,
  }
  plan = balance.balanced(labels, VOCABULARY, 44)
  assert [quota.num for quota in plan.quotas] == [22, 11, 11]


def test_balanced_leaves_open_what_no_label_states_and_warns(caplog):
  labels = _labels()
  labels["age"] = np.full(400, np.nan, np.float32)
  labels["findings"][labels["findings"][:, 1] > 0, 1] = np.nan
  plan = balance.balanced(labels, VOCABULARY, 30)
  assert len(plan) == 30
  assert {quota.ages for quota in plan.quotas} == {None}
  # An effusion that is unknown is neither an effusion nor no finding.
  assert {quota.findings for quota in plan.quotas} == {("Edema",), ("Mass",), ()}
  assert "no labelled image, so no quota: Effusion" in caplog.text
  with pytest.raises(errors.InputError, match="2 images for a balanced plan of 3"):
    balance.balanced(labels, VOCABULARY, 2)
