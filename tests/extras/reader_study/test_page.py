"""The reader study's page in a real browser: answered by keyboard, exported."""

import pathlib
import shutil
import time

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

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


@pytest.fixture
def study_page(tmp_path) -> tuple[pathlib.Path, reader_tables.StudyKey]:
  """The page of a study of 5 images of 32 pixels, and its key."""
  x, y = np.meshgrid(np.arange(32), np.arange(32))
  images = np.stack([(x * y + 40 * i) % 256 for i in range(4)]).astype(np.uint8)
  images = images[..., np.newaxis]
  ids = np.array(list("abcd"))
  real = ImageSet(name="real", images=images, ids=ids)
  generated = ImageSet(name="path_a", images=255 - images, ids=ids)
  page = reader_study.write(real, {"path_a": generated}, tmp_path, num_per_set=2)
  return page, reader_tables.read_key(tmp_path / "key.csv")


def _wait_for_status(browser: webdriver.Chrome, text: str) -> None:
  """Waits until the page shows a status: stored answers may arrive after loading."""
  WebDriverWait(browser, 20, poll_frequency=0.02).until(
    lambda _: browser.find_element(By.ID, "status").text == text
  )


def _wait_for_file(path: pathlib.Path) -> str:
  """The text of a download, once it exists; Chromium renames it when it is complete."""
  end = time.monotonic() + 20
  while not path.exists():
    assert time.monotonic() < end, f"nothing was downloaded to {path}"
    time.sleep(0.02)
  return path.read_text()


def test_page_accepts_answers_by_keyboard_and_exports_them(
  browser, study_page, tmp_path
):
  page, key = study_page
  browser.get(page.as_uri())
  body = browser.find_element(By.TAG_NAME, "body")
  status = browser.find_element(By.ID, "status")
  assert status.text == "Image 1 of 5, 0 answered"
  assert browser.execute_script("return document.images[0].naturalWidth") == 32
  browser.find_element(By.ID, "reader").send_keys('Dr. "A", rs5')
  body.click()
  for name, source in zip(key.images, key.sets, strict=True):
    body.send_keys("s" if source == "path_a" else "r", "4", "0")
    if name == key.images[1]:
      # A reload in the middle of the study restores its answers, even from a browser
      # that loses what it wrote to local storage last.
      browser.execute_script("localStorage.clear()")
      browser.refresh()
      _wait_for_status(browser, "Image 2 of 5, 2 answered")
      body = browser.find_element(By.TAG_NAME, "body")
      status = browser.find_element(By.ID, "status")
      boxes = browser.find_elements(By.NAME, "findings")
      boxes[4].send_keys(Keys.SPACE)
      assert [box.is_selected() for box in boxes] == [i == 4 for i in range(15)]
    body.send_keys(Keys.ENTER)
  assert status.text == "Image 5 of 5, 5 answered"
  browser.find_element(By.ID, "download").send_keys(Keys.ENTER)
  answers = tmp_path / "answers_Dr_A_rs5.csv"
  assert (
    _wait_for_file(answers).splitlines()[0] == "reader,image,verdict,realism,findings"
  )
  assert "all images are answered" in browser.find_element(By.ID, "note").text
  scores = reader_scores.score(tmp_path / "key.csv", [answers])
  assert scores.readers == ('Dr. "A", rs5',)
  assert scores.find("accuracy").value == 1
  assert scores.find("realism", path="path_a").value == 4
  findings = reader_tables.read_answers(answers, key).findings
  assert findings[:, 4].tolist() == [0, 1, 0, 0, 0]
  assert findings.sum() == 1
  assert browser.get_log("browser") == []


def test_page_shows_answers_given_in_another_tab(browser, study_page):
  page, _ = study_page
  browser.get(page.as_uri())
  _wait_for_status(browser, "Image 1 of 5, 0 answered")
  first = browser.current_window_handle
  browser.switch_to.new_window("tab")
  browser.get(page.as_uri())
  body = browser.find_element(By.TAG_NAME, "body")
  body.send_keys("r", "4", "0", Keys.ENTER)
  _wait_for_status(browser, "Image 2 of 5, 1 answered")
  browser.switch_to.window(first)
  _wait_for_status(browser, "Image 2 of 5, 1 answered")
