"""`evaluation/reader_page.html` in a real browser: answered by keyboard, exported."""

import pathlib
import shutil
import time

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from cxr_diffusion_jax.data.image_sets.image_set import ImageSet
from cxr_diffusion_jax.extras.reader_study import scores as reader_scores
from cxr_diffusion_jax.extras.reader_study import study as reader_study
from cxr_diffusion_jax.extras.reader_study import tables as reader_tables


@pytest.fixture
def browser(tmp_path):
  """A headless Chromium whose downloads go to a folder of the test's own."""
  chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
  if not chromium or not driver:
    pytest.skip("no chromium and chromedriver: the page is not seen in a browser")
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
    options.add_argument(f"--{flag}")
  options.add_argument("--window-size=1200,900")
  folder = {"download.default_directory": str(tmp_path)}
  options.add_experimental_option("prefs", folder)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(driver)
  opened = webdriver.Chrome(options=options, service=service)
  yield opened
  opened.quit()


def _wait(path: pathlib.Path) -> str:
  """The text of a download, as soon as it is whole."""
  end = time.monotonic() + 20
  while not path.exists():
    assert time.monotonic() < end, f"nothing was downloaded to {path}"
    time.sleep(0.02)
  return path.read_text()


def test_a_reader_answers_by_keyboard_and_the_export_is_scored(browser, tmp_path):
  x, y = np.meshgrid(np.arange(32), np.arange(32))
  images = np.stack([(x * y + 40 * i) % 256 for i in range(4)]).astype(np.uint8)
  images = images[..., np.newaxis]
  ids = np.array(list("abcd"))
  real = ImageSet(name="real", images=images, ids=ids)
  made = ImageSet(name="made", images=255 - images, ids=ids)
  page = reader_study.write(
    real, {"made": made}, tmp_path, num_per_set=2, num_repeats=1
  )
  key = reader_tables.read_key(tmp_path / "key.csv")
  browser.get(page.as_uri())
  body = browser.find_element(By.TAG_NAME, "body")
  status = browser.find_element(By.ID, "status")
  assert status.text == "Image 1 of 5, 0 answered"
  assert browser.execute_script("return document.images[0].naturalWidth") == 32
  browser.find_element(By.ID, "reader").send_keys('Dr. "A", rs5')
  body.click()
  for name, of in zip(key.images, key.sets, strict=True):
    body.send_keys("s" if of == "made" else "r", "4", "0")
    if name == key.images[1]:
      # What is left at half, a reload brings back.
      browser.refresh()
      body = browser.find_element(By.TAG_NAME, "body")
      status = browser.find_element(By.ID, "status")
      assert status.text == "Image 2 of 5, 2 answered"
      boxes = browser.find_elements(By.NAME, "findings")
      boxes[4].send_keys(Keys.SPACE)
      assert [box.is_selected() for box in boxes] == [i == 4 for i in range(15)]
    body.send_keys(Keys.ENTER)
  assert status.text == "Image 5 of 5, 5 answered"
  browser.find_element(By.ID, "download").send_keys(Keys.ENTER)
  answers = tmp_path / "answers_Dr_A_rs5.csv"
  assert _wait(answers).splitlines()[0] == "reader,image,verdict,realism,findings"
  assert "all images are answered" in browser.find_element(By.ID, "note").text
  found = reader_scores.score(tmp_path / "key.csv", [answers])
  assert found.readers == ('Dr. "A", rs5',)
  assert found.find("accuracy").value == 1
  assert found.find("realism", path="made").value == 4
  read = reader_tables.read_answers(answers, key)
  assert read.findings[:, 4].tolist() == [0, 1, 0, 0, 0]
  assert read.findings.sum() == 1
  assert browser.get_log("browser") == []
